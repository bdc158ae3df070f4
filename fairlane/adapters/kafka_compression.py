"""Decompression of a record batch within a bound: what a batch holds is decided by whoever wrote it.

16 KB of zstd can hold 500 MB, and aiokafka 0.14.0 unpacks whatever comes.
"""

from __future__ import annotations

import struct

import cramjam

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
"""The protocol's numbers of the codecs (KIP-390)."""
FIRST_BYTES = 64 * 1024
GROWTH = 4

_INTO = {GZIP: cramjam.gzip.decompress_into, LZ4: cramjam.lz4.decompress_into, ZSTD: cramjam.zstd.decompress_into}
# What Rust's standard library says of a writer that takes no more; the tests hold every codec to it.
_FULL = "failed to write whole buffer"
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class TooMuch(Exception):
    """The batch holds more than the bound."""


class Damaged(Exception):
    """The bytes are not what the codec writes."""


def decompressed(codec: int, data: memoryview, limit: int, before: bytes = b"") -> bytearray:
    """``before`` and then what the data holds, never more than ``limit`` bytes of it.

    Takes at most the limit and once more the size of the data in memory. Raises :class:`TooMuch` or
    :class:`Damaged`.
    """
    if codec == SNAPPY:
        return _snappy(bytes(data), limit, before)
    into = _INTO.get(codec)
    if into is None:
        raise Damaged(f"no codec of the protocol has the number {codec}")
    size = min(limit, max(FIRST_BYTES, GROWTH * len(data)))
    while True:
        buffer = bytearray(len(before) + size)
        buffer[: len(before)] = before
        try:
            with memoryview(buffer) as view:
                written = into(data, view[len(before) :])
        except cramjam.DecompressionError as failure:
            if _FULL not in str(failure):
                raise Damaged(str(failure)) from None
        else:
            del buffer[len(before) + written :]
            return buffer
        if size == limit:
            raise TooMuch
        # The old one goes first.
        del buffer
        size = min(limit, GROWTH * size)


def _snappy(data: bytes, limit: int, before: bytes) -> bytearray:
    """Snappy's blocks say beforehand how much they hold."""
    blocks = _xerial_blocks(data) if data.startswith(_XERIAL_MAGIC) else [(0, len(data))]
    found = bytearray(before)
    try:
        for start, end in blocks:
            block = data[start:end]
            if len(found) - len(before) + cramjam.snappy.decompress_raw_len(block) > limit:
                raise TooMuch
            found += cramjam.snappy.decompress_raw(block)
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
