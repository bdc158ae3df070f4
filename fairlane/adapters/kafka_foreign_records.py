"""Reads batches as any client of the protocol can write them, with bounded memory and without failing.

aiokafka 0.14.0 unpacks a compressed batch whatever it holds, and decodes the names of headers strictly:
one batch fills the memory, or makes whoever reads its partition fail for ever. Here batches are
unpacked within :data:`BATCH_BYTES_MAX`. One that holds more, or that its codec does not understand, gives for each
of its offsets a record without key and value that says so. And where a header's name is not UTF-8, the
batch is read a second time, by aiokafka's parser in Python, with each bad byte replaced. It touches the
fetch buffer and the client of a consumer; aiokafka is pinned.
"""

# ruff: noqa: SLF001 - aiokafka offers no seam here, and it is pinned to one version.

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords

from fairlane.adapters.kafka_compression import Damaged, TooMuch, decompressed
from fairlane.adapters.kafka_topics import MAX_MESSAGE_BYTES
from fairlane.ports import Record
from fairlane.ports.log import Fault

BATCH_BYTES_MAX = 4 * MAX_MESSAGE_BYTES
"""What a compressed batch may hold. The broker bounds its compressed size only (and 4.3.1 has no setting for
the other), and a consumer may have one batch of each of its partitions unpacked at a time."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">i")
_LENGTH_AT, _LOG_OVERHEAD, _MAGIC_AT, _ATTRIBUTES_AT = 8, 12, 16, 21
_CODEC_MASK, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20


def tolerate_foreign_records(consumer: Any) -> None:
    """Make a started consumer that owns nothing yet read any batch."""
    fetcher = consumer._fetcher
    fetcher._records = _FetchBuffer(fetcher._client)


def record_of(message: Any) -> Record:
    """Our record for aiokafka's, from a consumer that tolerates foreign records."""
    value = message.value
    fault = value.fault if type(value) is _Unreadable else None
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key,
        None if fault is not None else value,
        message.headers,
        fault,
    )


class _Unreadable(bytes):
    """Stands for a value nobody unpacked."""

    fault: Fault

    @classmethod
    def because(cls, fault: Fault) -> _Unreadable:
        value = cls()
        value.fault = fault
        return value


class _FetchBuffer(OrderedDict[Any, Any]):
    """Fetched records by partition; keeps the bytes they come from until they are read."""

    def __init__(self, client: Any) -> None:
        super().__init__()
        self._bytes: dict[tuple[str, int], bytes] = {}
        send = client.send

        async def send_and_keep(node_id: Any, request: Any, **options: Any) -> Any:
            response = await send(node_id, request, **options)
            if type(response).__name__.startswith("FetchResponse"):
                for topic, partitions in response.topics:
                    for partition in partitions:
                        self._bytes[topic, partition[0]] = partition[-1]
            return response

        client.send = send_and_keep

    def __setitem__(self, tp: Any, fetched: Any) -> None:
        content = self._bytes.pop((tp.topic, tp.partition), None)
        if content is not None and type(fetched) is FetchResult:
            records: Any = fetched._partition_records
            # Of an unpacked batch nobody could check it any more; ours check it before.
            check, records._check_crcs = records._check_crcs, False
            # Read when the first record is asked for, which nobody has yet.
            records._records = _Batches(content, check, strict=True)
            records._records_iterator = _tolerant(records, records._records_iterator, content)
        super().__setitem__(tp, fetched)


def _tolerant(records: Any, strict: Iterator[Any], content: bytes) -> Iterator[Any]:
    try:
        yield from strict
    except UnicodeDecodeError:
        # From the start of what was fetched, but it gives nothing below the offset it has come to.
        records._records = _Batches(content, check=False, strict=False)
        yield from records._unpack_records()


class _Batches:
    """The batches of what was fetched, as aiokafka's ``MemoryRecords`` gives them."""

    def __init__(self, content: bytes, check: bool, *, strict: bool) -> None:
        self._content = memoryview(content)
        self._check = check
        self._strict = strict
        self._at = 0

    def has_next(self) -> bool:
        return self._end() is not None

    def next_batch(self) -> Any:
        end = self._end()
        if end is None:
            return None
        whole, self._at = self._content[self._at : end], end
        if len(whole) < _HEADER.size or whole[_MAGIC_AT] < 2:
            # Formats that brokers since 4.0 neither take nor hand out.
            return MemoryRecords(bytes(whole)).next_batch()
        if self._check and not DefaultRecordBatch(whole).validate_crc():
            raise CorruptRecordException("a batch does not have the checksum it names")
        (attributes,) = struct.unpack_from(">h", whole, _ATTRIBUTES_AT)
        if attributes & _CODEC_MASK and not attributes & _CONTROL:
            header = bytearray(whole[: _HEADER.size])
            struct.pack_into(">h", header, _ATTRIBUTES_AT, attributes & ~_CODEC_MASK)
            try:
                plain = decompressed(
                    attributes & _CODEC_MASK, whole[_HEADER.size :], BATCH_BYTES_MAX, before=bytes(header)
                )
            except TooMuch:
                return _UnreadableBatch(whole, Fault.TOO_LARGE)
            except Damaged:
                return _UnreadableBatch(whole, Fault.DAMAGED)
            return DefaultRecordBatch(plain) if self._strict else _TolerantBatch(plain)
        return DefaultRecordBatch(whole) if self._strict else _TolerantBatch(bytes(whole))

    def _end(self) -> int | None:
        """Where the next batch ends; None where it is cut off, as the last one of a fetch may be."""
        at, content = self._at, self._content
        if len(content) - at < _LOG_OVERHEAD:
            return None
        end: int = at + _LOG_OVERHEAD + _LENGTH.unpack_from(content, at + _LENGTH_AT)[0]
        return end if at + _LOG_OVERHEAD < end <= len(content) else None


class _UnreadableBatch:
    """A batch that is not unpacked: a record without key and value for each of its offsets, one at a time."""

    is_control_batch = False

    def __init__(self, whole: memoryview, fault: Fault) -> None:
        header = _HEADER.unpack_from(whole)
        attributes, last_delta, first_ms, latest_ms = header[5:9]
        self.base_offset: int = header[0]
        self.next_offset: int = self.base_offset + last_delta + 1
        self.producer_id: int = header[9]
        self.is_transactional = bool(attributes & _TRANSACTIONAL)
        self._timestamp_type = int(bool(attributes & _LOG_APPEND_TIME))
        self._timestamp = latest_ms if self._timestamp_type else first_ms
        self._value = _Unreadable.because(fault)

    def __iter__(self) -> Iterator[Any]:
        for offset in range(self.base_offset, self.next_offset):
            yield _DefaultRecordPy(offset, self._timestamp, self._timestamp_type, None, self._value, [])


class _TolerantBatch(_DefaultRecordBatchPy):
    _buffer: Any

    def __iter__(self) -> Any:
        super().__iter__()
        self._buffer = _Bytes(self._buffer)
        return self


class _Bytes(bytearray):
    """Whose slices decode whatever they hold."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Text(found) if isinstance(index, slice) else found


class _Text(bytes):
    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, "replace")
