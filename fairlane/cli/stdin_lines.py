"""Lines of stdin without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from typing import BinaryIO

from fairlane.errors import Reject

LINE_BYTES_MAX = 16 * 1024 * 1024


async def lines_of(stream: BinaryIO | None = None) -> AsyncIterator[str]:
    """Yield the lines of a pipe, terminal or file (default: stdin) as they come.

    Raises Reject for a line that is not UTF-8 or longer than :data:`LINE_BYTES_MAX`.
    """
    stream = sys.stdin.buffer if stream is None else stream
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    if not _can_be_awaited(stream):
        for number, raw in enumerate(stream, start=1):
            yield _text(raw, number)
        return
    # asyncio closes what it is given; stdin itself stays open.
    pipe = os.fdopen(os.dup(stream.fileno()), "rb", buffering=0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        number = 0
        while raw := await _next_line(reader, number + 1):
            number += 1
            yield _text(raw, number)
    finally:
        transport.close()
        # asyncio made the descriptor non-blocking; a terminal shares that with stdout and the shell.
        os.set_blocking(stream.fileno(), True)


def _can_be_awaited(stream: BinaryIO) -> bool:
    """Whether it is a pipe, socket or terminal. Files and other devices never keep a reader waiting for long."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stream.isatty()


async def _next_line(reader: asyncio.StreamReader, number: int) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise Reject(f"line {number}: longer than {LINE_BYTES_MAX} bytes") from None


def _text(raw: bytes, number: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Reject(f"line {number}: not UTF-8") from None
