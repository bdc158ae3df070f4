"""Data that the engine reads by a path, for the length of a ``with`` block."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

IN_MEMORY = sys.platform.startswith("linux")


@contextmanager
def data_file(data: memoryview) -> Iterator[str]:
    """The path of a file with the data: in memory on Linux, else a temporary one.

    Raises OSError where there is no room for it.
    """
    if IN_MEMORY:
        number = os.memfd_create("insert")
        try:
            _write(number, data)
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
        return
    with tempfile.NamedTemporaryFile() as file:
        _write(file.fileno(), data)
        yield file.name


def _write(number: int, data: memoryview) -> None:
    while data:
        data = data[os.write(number, data) :]
