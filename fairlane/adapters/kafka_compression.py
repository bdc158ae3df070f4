"""Decompression of a record batch within a bound: what a batch holds is decided by whoever wrote it.

16 KB of zstd can hold 500 MB, and aiokafka 0.14.0 unpacks whatever comes.
"""

from __future__ import annotations

import mmap
import struct
import threading

import cramjam

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""The protocol's numbers of the codecs (KIP-390)."""

_INTO = {GZIP: cramjam.gzip.decompress_into, LZ4: cramjam.lz4.decompress_into, ZSTD: cramjam.zstd.decompress_into}
# What Rust's standard library says of a writer that takes no more; the tests hold every codec to it.
_FULL = "failed to write whole buffer"
_ROOM = threading.local()
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class TooMuch(Exception):
    """The batch holds more than the bound."""


class Damaged(Exception):
    """The bytes are not what the codec writes."""


def decompressed(codec: int, data: memoryview, limit: int, before: bytes = b"") -> bytearray:
    """``before`` and then what the data holds, never more than ``limit`` bytes of it.

    Takes at most the limit twice in memory, and once of that is kept for the next batch. Raises :class:`TooMuch` or
    :class:`Damaged`.
    """
    if codec == SNAPPY:
        return _snappy(bytes(data), limit, before)
    into = _INTO.get(codec)
    if into is None:
        raise Damaged(f"no codec of the protocol has the number {codec}")
    with memoryview(_scratch(limit)) as whole, whole[:limit] as room:
        try:
            written = into(data, room)
        except cramjam.DecompressionError as failure:
            if _FULL in str(failure):
                raise TooMuch from None
            raise Damaged(str(failure)) from None
        found = bytearray(before)
        found += room[:written]
        return found


def _scratch(size: int) -> mmap.mmap:
    """Room of this thread to unpack into, kept: memory is taken for as much of it as was ever used, and only once."""
    room: mmap.mmap | None = getattr(_ROOM, "scratch", None)
    if room is None or len(room) < size:
        room = _ROOM.scratch = mmap.mmap(-1, size)
    return room


def _snappy(data: bytes, limit: int, before: bytes) -> bytearray:
    """Snappy's blocks say beforehand how much they hold."""
    blocks = _xerial_blocks(data) if data.startswith(_XERIAL_MAGIC) else [(0, len(data))]
    found = bytearray(before)
    try:
        if sum(cramjam.snappy.decompress_raw_len(data[start:end]) for start, end in blocks) > limit:
            raise TooMuch
        for start, end in blocks:
            found += cramjam.snappy.decompress_raw(data[start:end])
    except cramjam.DecompressionError as failure:
        raise Damaged(str(failure)) from None
    return found


def _xerial_blocks(data: bytes) -> list[tuple[int, int]]:
    """Where the blocks stand in the frames of Java's snappy."""
    blocks, at = [], _XERIAL_HEADER_BYTES
    while at < len(data):
        if at + 4 > len(data):
            raise Damaged("a block has no size")
        (size,) = struct.unpack_from(">i", data, at)
        start, at = at + 4, at + 4 + size
        if size < 0 or at > len(data):
            raise Damaged("a block ends beyond its batch")
        blocks.append((start, at))
    return blocks
