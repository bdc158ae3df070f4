"""How long work on the stack tells the person who waits for it."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Told what a part of the stack is doing now. Called often; must not block."""

    def __call__(self, part: str, message: str, *, done: bool = False) -> None:
        """``part`` is a process or step, as ``kafka``; ``done`` says that nothing more follows for now."""
        ...


def silent(part: str, message: str, *, done: bool = False) -> None:
    """A :class:`Report` to nobody."""
