"""Which effects of a partition's records already stand in the log.

A process that dies between writing an effect and committing its input leaves work that looks
unfinished. Whoever takes over looks the effects up by the source they name, and writes only those
that are missing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import NamedTuple

from fairlane.ports import LogReader, Record, Restored, TopicPartition
from fairlane.schemas.headers import SOURCE, header

CLOCK_MARGIN_MS = 5_000
"""Brokers of a cluster stamp records by their own clocks; this covers their difference."""


class Effect(NamedTuple):
    """A record written because of another: where it went, what it came from, and its key."""

    topic: str
    source: bytes
    key: bytes | None


async def first_timestamp(
    reader: LogReader, restored: Mapping[TopicPartition, Restored], *, committed_only: bool = False
) -> int | None:
    """Milliseconds of the oldest record to be delivered of these partitions; None if there is none.

    ``committed_only`` is as for the delivery: what was aborted is not delivered, however long it has been there.
    """
    oldest: int | None = None
    for partition, state in restored.items():
        if state.offset >= state.end:
            continue
        # Not only the record at the position: there may be a gap, such as the marker that ended a transaction.
        starts, ends = {partition.partition: state.offset}, {partition.partition: state.end}
        batches = reader.read(partition.topic, starts, ends, committed_only=committed_only)
        try:
            async for batch in batches:
                if batch:
                    first = batch[0].timestamp_ms
                    oldest = first if oldest is None else min(oldest, first)
                    break
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
    return oldest


async def effects_since(
    reader: LogReader, topics: Iterable[str], since_ms: int, sources: tuple[bytes, ...]
) -> set[Effect]:
    """Effects written since then whose source begins with one of ``sources`` (``topic/partition/``)."""
    found: set[Effect] = set()
    for topic in topics:
        ends = await reader.ends(topic)
        starts = await reader.offsets_at(topic, since_ms - CLOCK_MARGIN_MS)
        async for batch in reader.read(topic, starts, ends):
            for record in batch:
                source = header(record.headers, SOURCE)
                if source is not None and source.startswith(sources):
                    found.add(Effect(topic, source, record.key))
    return found


def source_of(record: Record) -> bytes:
    """The source that effects of this record name: ``topic/partition/offset``."""
    return f"{record.topic}/{record.partition}/{record.offset}".encode()


_OFFSET_DIGITS_MAX = 19
"""Of 2**63 - 1, the largest offset."""


def place_of(source: bytes) -> tuple[bytes, int]:
    """The prefix and the offset of a source; the offset is -1 where it is none that a stage writes."""
    prefix, slash, offset = source.rpartition(b"/")
    # The length first: anybody may write the header, and Python refuses to read thousands of digits.
    return prefix + slash, int(offset) if len(offset) <= _OFFSET_DIGITS_MAX and offset.isdigit() else -1


def source_prefix(partition: TopicPartition) -> bytes:
    """What the sources of all records of a partition begin with."""
    return f"{partition.topic}/{partition.partition}/".encode()
