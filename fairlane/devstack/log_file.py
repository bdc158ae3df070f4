"""Keeps the log files of processes readable and bounded."""

from __future__ import annotations

import shutil
from pathlib import Path

MAX_BYTES = 8 * 1024 * 1024
"""A larger file is moved aside; one older file is kept, so a process has at most twice this."""
TAIL_LINES = 15


def bound(log: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Copy a log that has grown too large to ``<name>.1`` and empty it; returns whether it did.

    Emptied in place and not renamed: the process keeps the file open, and appends.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        with log.open("r+b") as file:
            file.truncate(0)
    except FileNotFoundError:
        return False
    return True


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The end of a log with its path, to be put behind an error message."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        text = ""
    last = text.splitlines()[-lines:]
    if not last:
        return f"; its log {log} is empty"
    return f"; the end of {log}:\n" + "\n".join(f"    {line[:400]}" for line in last)
