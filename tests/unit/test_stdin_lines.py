"""Lines of stdin, from whatever stdin is."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from fairlane.cli.stdin_lines import lines_of
from fairlane.errors import Reject

SCRIPT = """
import asyncio, os, sys
from fairlane.cli.stdin_lines import lines_of

async def main():
    async for line in lines_of():
        print(line.rstrip())

asyncio.run(main())
assert os.get_blocking(0) and not sys.stdin.closed
"""


def lines_from(stdin: int) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_pipe_is_read_to_its_end_and_left_as_it_was() -> None:
    reading, writing = os.pipe()
    os.write(writing, "one\nzwölf\nlast without an end".encode())
    os.close(writing)

    assert lines_from(reading) == ["one", "zwölf", "last without an end"]
    os.close(reading)


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("one\ntwo\n")
    with path.open() as file:
        assert lines_from(file.fileno()) == ["one", "two"]


def test_nothing_at_all_gives_no_line() -> None:
    assert lines_from(subprocess.DEVNULL) == []


async def test_a_line_that_is_not_utf8_is_named() -> None:
    with pytest.raises(Reject, match="line 2: not UTF-8"):
        _ = [line async for line in lines_of(BytesIO(b"one\n\xff\n"))]
