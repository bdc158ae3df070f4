"""Answers that are given again, read from ``results``: few reads for a batch of requests, however many ask."""

from __future__ import annotations

from collections.abc import Iterable

from fairlane.ports import LogReader, Record

NEAR = 100
"""Answers no further apart than this are read at once: a read costs more than the records between them."""
KEPT_BYTES = 16 * 1_048_576
"""Of the answers of one batch; those beyond it are read one by one."""


class StoredAnswers:
    """The records at positions ``partition/offset`` of a topic; forgotten with the next batch."""

    def __init__(self, reader: LogReader, topic: str) -> None:
        self._reader = reader
        self._topic = topic
        self._found: dict[tuple[int, int], Record] = {}
        self._bounds: dict[int, tuple[int, int]] = {}

    async def load(self, positions: Iterable[str]) -> None:
        """Read what a batch will ask for. Raises Retry."""
        self._found = {}
        wanted = sorted({_parsed(position) for position in positions})
        if not wanted:
            return
        starts, ends = await self._reader.starts(self._topic), await self._reader.ends(self._topic)
        self._bounds = {partition: (starts.get(partition, 0), end) for partition, end in ends.items()}
        there = [place for place in wanted if self._is_kept(place)]
        size = 0
        for ranges in _rounds(there):
            if size > KEPT_BYTES:
                return
            size += await self._read(ranges, frozenset(there))

    async def at(self, position: str) -> Record | None:
        """The record at a position of the batch, or None if the log no longer keeps it. Raises Retry."""
        place = partition, offset = _parsed(position)
        if place not in self._found and self._is_kept(place):
            await self._read({partition: (offset, offset + 1)}, frozenset({place}))
        return self._found.get(place)

    def _is_kept(self, place: tuple[int, int]) -> bool:
        start, end = self._bounds.get(place[0], (0, 0))
        return start <= place[1] < end

    async def _read(self, ranges: dict[int, tuple[int, int]], wanted: frozenset[tuple[int, int]]) -> int:
        """Keep what is wanted of some ranges; how many bytes that is."""
        size = 0
        starts = {partition: start for partition, (start, _) in ranges.items()}
        ends = {partition: end for partition, (_, end) in ranges.items()}
        async for batch in self._reader.read(self._topic, starts, ends):
            for record in batch:
                if (place := (record.partition, record.offset)) in wanted:
                    self._found[place] = record
                    size += len(record.value or b"")
        return size


def _parsed(position: str) -> tuple[int, int]:
    partition, _, offset = position.partition("/")
    return int(partition), int(offset)


def _rounds(places: Iterable[tuple[int, int]]) -> list[dict[int, tuple[int, int]]]:
    """Ranges that hold all places, as few as may be; each round has at most one of a partition."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    for partition, offset in places:
        found = ranges.setdefault(partition, [])
        if found and offset - found[-1][1] < NEAR:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    longest = max(map(len, ranges.values()), default=0)
    return [
        {partition: found[number] for partition, found in ranges.items() if number < len(found)}
        for number in range(longest)
    ]
