"""What a new owner of partitions must know before it reads on: where, what was intended, which keys came before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairlane.ports import LogConsumer, LogReader, Position, TopicPartition
from fairlane.sinks.partition import OwnedPartition
from fairlane.sinks.ranges import IntendedRange, parse_range


class Restorer:
    """Reads commits and the log before them; ``recent_offsets`` as in :class:`~fairlane.sinks.winners.RecentKeys`."""

    def __init__(self, consumer: LogConsumer, reader: LogReader, recent_offsets: int) -> None:
        self._consumer = consumer
        self._reader = reader
        self._recent_offsets = recent_offsets

    async def restore(self, parts: Sequence[OwnedPartition]) -> dict[TopicPartition, tuple[int, IntendedRange | None]]:
        """For each partition the offset to read from and the intended range, with its recent keys noted.

        Raises Retry; the same call again with fresh partitions starts over.
        """
        committed = await self._consumer.committed(frozenset(part.tp for part in parts))
        found: dict[TopicPartition, tuple[int, IntendedRange | None]] = {}
        for topic in sorted({part.tp.topic for part in parts}):
            of_topic = [part for part in parts if part.tp.topic == topic]
            starts, ends = await self._reader.starts(topic), await self._reader.ends(topic)
            for part in of_topic:
                number = part.tp.partition
                found[part.tp] = _standing(committed.get(part.tp), starts[number], ends[number])
            if of_topic[0].feed.key is not None:
                await self._read_back(of_topic, {part.tp.partition: found[part.tp][0] for part in of_topic}, starts)
        return found

    async def _read_back(
        self, parts: Sequence[OwnedPartition], bases: Mapping[int, int], starts: Mapping[int, int]
    ) -> None:
        by_number = {part.tp.partition: part for part in parts}
        begins = {number: max(starts[number], base - self._recent_offsets) for number, base in bases.items()}
        async for records in self._reader.read(parts[0].tp.topic, begins, bases):
            for record in records:
                by_number[record.partition].remember((record,))


def _standing(committed: Position | None, start: int, end: int) -> tuple[int, IntendedRange | None]:
    # A position past the end is of a topic that was made anew since: its records are others.
    if committed is None or committed.offset > end:
        return start, None
    return max(committed.offset, start), parse_range(committed.metadata)
