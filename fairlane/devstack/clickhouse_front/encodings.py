"""HTTP content codings, with a bound on what a body may grow to."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from fairlane.devstack.clickhouse_front.exceptions import QueryFailed

_COMPRESS_FROM_BYTES = 1024
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _optional(*names: str) -> Any | None:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


class Codings:
    """The codings this installation can read and write: gzip and deflate always, lz4 and zstd with their wheels."""

    def __init__(self) -> None:
        self._readers: dict[str, Callable[[], _Decompressor]] = {}
        self._writers: dict[str, Callable[[bytes], bytes]] = {}
        self._broken: tuple[type[Exception], ...] = (zlib.error, RuntimeError)
        if zstd := _optional("compression.zstd", "backports.zstd"):
            self._readers["zstd"] = zstd.ZstdDecompressor
            self._broken += (zstd.ZstdError,)
            self._writers["zstd"] = lambda data: bytes(zstd.compress(data, 1))
        if lz4 := _optional("lz4.frame"):
            self._readers["lz4"] = lz4.LZ4FrameDecompressor
            self._writers["lz4"] = lambda data: bytes(lz4.compress(data))
        self._readers["gzip"] = lambda: zlib.decompressobj(_GZIP_WINDOW)
        self._writers["gzip"] = lambda data: gzip.compress(data, 1)
        self._readers["deflate"] = zlib.decompressobj
        self._writers["deflate"] = lambda data: zlib.compress(data, 1)

    def decode(self, data: bytes, coding: str, limit: int) -> bytes:
        """Undo ``coding``; raises :class:`QueryFailed` if it is unknown, broken, or grows beyond ``limit`` bytes."""
        coding = coding.strip().lower()
        if coding in ("", "identity"):
            return data
        reader = self._readers.get(coding)
        if reader is None:
            raise QueryFailed(
                78, "UNKNOWN_COMPRESSION_METHOD", f"Content-Encoding {coding!r}: use {', '.join(self._readers)}", 400
            )
        parts: list[bytes] = []
        left = limit + 1
        while data:  # clients send each block as a frame of its own
            stream = reader()
            try:
                part = stream.decompress(data, left)
            except self._broken as failure:
                raise QueryFailed(
                    354, "CANNOT_DECOMPRESS", f"the body is not {coding}: {type(failure).__name__}", 400
                ) from None
            parts.append(part)
            left -= len(part)
            if left <= 0:
                raise too_large(limit)
            if not stream.eof:
                raise QueryFailed(354, "CANNOT_DECOMPRESS", f"the {coding} body ends in the middle of a frame", 400)
            data = stream.unused_data or b""
        return b"".join(parts)

    def encode(self, data: bytes, accepted: str) -> tuple[bytes, str | None]:
        """Compress for a client's Accept-Encoding, fastest coding first; small answers stay as they are."""
        if len(data) < _COMPRESS_FROM_BYTES:
            return data, None
        wanted = {part.partition(";")[0].strip().lower() for part in accepted.split(",") if not part.endswith(";q=0")}
        for coding, write in self._writers.items():
            if coding in wanted:
                return write(data), coding
        return data, None


def too_large(limit: int) -> QueryFailed:
    """The body, or what it decompresses to, is larger than allowed."""
    return QueryFailed(307, "TOO_MANY_BYTES", f"the request body is larger than {limit} bytes; insert fewer rows", 413)
