"""The source files of this checkout, each once and under its real path, for tests that read code."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINKED = ("agents", "schemas", "sinks", "streams")
CODE = ("fairlane", *LINKED)
WRITTEN_BY_HAND = (*CODE, "tests", "examples", "benchmarks", "tools")


def python_files(*folders: str) -> Iterator[Path]:
    """Python files below the folders, links not followed."""
    for folder in folders:
        for directory, names, files in os.walk(ROOT / folder):
            names[:] = sorted(name for name in names if not name.startswith((".", "__")))
            yield from (Path(directory, file) for file in sorted(files) if file.endswith(".py"))


def modules() -> Iterator[str]:
    """Import names of all modules, without ``__main__``."""
    for path in python_files(*CODE):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "fairlane" else ("fairlane", *parts)
        if parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def repository_files() -> Iterator[Path]:
    """Files under version control or about to be; without git, everything that is not hidden."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        for name in listed.stdout.decode().split("\0"):
            if name and (path := ROOT / name).is_file() and not path.is_symlink():
                yield path
        return
    for directory, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith((".", "__"))]
        yield from (Path(directory, file) for file in files)
