"""Lets one supervisor at a time own a state directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairlane.errors import Fatal


@contextmanager
def stack_lock(state_dir: Path) -> Iterator[None]:
    """Hold the directory's lock, which the system drops with the process. Raises Fatal where another holds it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "supervisor.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fatal(
                f"a stack runs already in {state_dir}: `fairlane status` shows it, `fairlane down` stops it"
            ) from None
        yield
