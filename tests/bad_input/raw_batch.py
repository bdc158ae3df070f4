"""Record batches written byte by byte, as a careless or hostile client can send them (KIP-98 format)."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import cramjam
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c, encode_varint

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_CHUNK = 32 * 1024
_XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)


def varint(number: int) -> bytes:
    """A zig-zag varint of the protocol."""
    out = bytearray()
    encode_varint(number, out.append)
    return bytes(out)


def record(
    delta: int, value: bytes | None, *, key: bytes | None = None, headers: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """One record of a batch."""
    body = b"\0" + varint(0) + varint(delta)
    for each in (key, value):
        body += varint(-1) if each is None else varint(len(each)) + each
    body += varint(len(headers))
    body += b"".join(varint(len(n)) + n + varint(len(v)) + v for n, v in headers)
    return varint(len(body)) + body


def batch(
    payload: bytes, count: int, *, codec: int = 0, crc: int | None = None, last_delta: int | None = None
) -> bytes:
    """A batch around records, with what its header claims about them."""
    now = int(time.time() * 1000)
    delta = count - 1 if last_delta is None else last_delta
    after_crc = struct.pack(">hiqqqhii", codec, delta, now, now, -1, -1, -1, count) + payload
    checksum = calc_crc32c(after_crc) if crc is None else crc
    head = struct.pack(">ibI", -1, 2, checksum)
    return struct.pack(">qi", 0, len(head) + len(after_crc)) + head + after_crc


def bomb(codec: str, size: int, start: bytes = b"", filler: bytes = b"\0") -> bytes:
    """A batch of one record whose value is a start and ``size`` bytes more, compressed without ever holding them."""
    prefix = b"\0" + varint(0) + varint(0) + varint(-1) + varint(len(start) + size) + start
    length = varint(len(prefix) + size + 1)
    chunks, part = divmod(size, _CHUNK)
    return batch(_compressed(codec, length + prefix, filler * _CHUNK, chunks, filler * part), 1, codec=CODECS[codec])


def _compressed(codec: str, prefix: bytes, chunk: bytes, chunks: int, part: bytes) -> bytes:
    """The prefix, so many chunks, the part of one, and an empty list of headers."""
    last = part + varint(0)
    if codec == "gzip":
        deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
        out = [deflate.compress(prefix), *(deflate.compress(chunk) for _ in range(chunks))]
        return b"".join(out) + deflate.compress(last) + deflate.flush()
    if codec == "snappy":
        block = _snappy_block(chunk)
        return _XERIAL + _snappy_block(prefix) + block * chunks + _snappy_block(last)
    compressor: Any = cramjam.zstd.Compressor() if codec == "zstd" else _lz4_compressor()
    compressor.compress(prefix)
    for _ in range(chunks):
        compressor.compress(chunk)
    compressor.compress(last)
    return bytes(compressor.finish())


def _snappy_block(data: bytes) -> bytes:
    block = bytes(cramjam.snappy.compress_raw(data))
    return struct.pack(">i", len(block)) + block


def compress(codec: str, payload: bytes) -> bytes:
    """Records as a producer compresses them."""
    one_shot: dict[str, Callable[[bytes], Any]] = {
        "gzip": cramjam.gzip.compress,
        "snappy": lambda data: _XERIAL + _snappy_block(data),
        "lz4": _lz4,
        "zstd": cramjam.zstd.compress,
    }
    return bytes(one_shot[codec](payload))


class RawBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka has no annotations
    """A finished batch, for ``send_batch`` of a producer that is not idempotent."""

    def __init__(self, content: bytes, count: int) -> None:
        super().__init__(len(content), 0)
        self._buffer = content
        self._relative_offset = count
        self._closed = True


def _lz4(data: bytes) -> bytes:
    compressor = _lz4_compressor()
    compressor.compress(data)
    return bytes(compressor.finish())


def _lz4_compressor() -> Any:
    # Brokers do not read blocks that refer to each other (KIP-57).
    return cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)


async def send_raw(producer: AIOKafkaProducer, topic: str, content: bytes, count: int, partition: int = 0) -> int:
    """Send a batch as it is; its first offset. Raises the broker's error."""
    sent = await (await producer.send_batch(RawBatch(content, count), topic, partition=partition))
    offset: int = sent.offset
    return offset
