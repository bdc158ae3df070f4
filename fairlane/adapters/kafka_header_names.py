"""Reads records whose header names are not UTF-8, as any client of librdkafka or Java's protocol can write them.

aiokafka 0.14.0 decodes names strictly and fails in the middle of a batch: whoever reads that partition
fails for ever, and what stood before the record in the batch is dropped on the way. Here such a batch
is read a second time, by aiokafka's parser in Python, with each bad byte replaced. It touches the fetch
buffer and the client of a consumer; aiokafka is pinned.
"""

# ruff: noqa: SLF001 - aiokafka offers no seam here, and it is pinned to one version.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer.fetcher import FetchResult
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def tolerate_header_names(consumer: Any) -> None:
    """Make a started consumer that owns nothing yet read any header name."""
    fetcher = consumer._fetcher
    fetcher._records = _FetchBuffer(fetcher._client)


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
            records._records_iterator = _tolerant(records, records._records_iterator, content)
        super().__setitem__(tp, fetched)


def _tolerant(records: Any, strict: Iterator[Any], content: bytes) -> Iterator[Any]:
    try:
        yield from strict
    except UnicodeDecodeError:
        # From the start of what was fetched, but it gives nothing below the offset it has come to.
        records._records = _Records(content)
        yield from records._unpack_records()


class _Records(_MemoryRecordsPy):
    def next_batch(self, *args: Any) -> Any:
        content = self._next_slice
        batch = super().next_batch(*args)
        return _Batch(bytes(content)) if content is not None and content[self.MAGIC_OFFSET] >= 2 else batch


class _Batch(_DefaultRecordBatchPy):
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
