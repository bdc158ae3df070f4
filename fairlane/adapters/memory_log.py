"""A log in memory with the behaviour of the Kafka adapters: for tests, simulations and trying things out.

One :class:`MemoryLog` is the broker; publishers, readers and consumers of it live in one event loop.
It is deterministic apart from the timeouts the callers pass.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Literal

from fairlane.adapters.memory_group import MemoryGroup
from fairlane.clock import Clock, SystemClock
from fairlane.errors import FairlaneError, Poison, Retry
from fairlane.ports import Outgoing, Position, Record, TopicPartition
from fairlane.schemas.topics import TOPICS, partition_for

Operation = Literal["send", "ack", "partitions", "read", "poll", "commit", "committed"]
"""What can be made to fail. ``ack``: the record is appended, and its writer is told it may not be."""

IDLE_S = 0.5


class MemoryLog:
    """The broker: topics of partitions, consumer groups, and failures to order."""

    def __init__(self, clock: Clock | None = None, *, max_record_bytes: int = 4 * 1_048_576) -> None:
        self.clock = clock or SystemClock()
        self.max_record_bytes = max_record_bytes
        self._partitions: dict[TopicPartition, list[Record]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._first: dict[TopicPartition, int] = {}
        self._counts: dict[str, int] = {}
        self._groups: dict[str, MemoryGroup] = {}
        self._failures: dict[Operation, deque[FairlaneError]] = {}
        # In the order of the waits, so that who is woken first does not depend on memory addresses.
        self._waiting: dict[asyncio.Future[None], Collection[str] | None] = {}

    # --- topics and records ---------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic; an existing one stays as it is."""
        if name not in self._counts:
            self.grow_topic(name, partitions)

    def grow_topic(self, name: str, partitions: int) -> None:
        """Give a topic this many partitions; those there are stay."""
        before, self._counts[name] = self._counts.get(name, 0), partitions
        for partition in range(before, partitions):
            tp = TopicPartition(name, partition)
            self._partitions[tp], self._next[tp], self._first[tp] = [], 0, 0
        for group in self._groups.values():
            group.rebalance()

    def create_topics(self, prefix: str, pools: Iterable[str] = ()) -> None:
        """Make the topics of the registry."""
        pools = list(pools)
        for spec in TOPICS:
            for pool in pools if spec.per_pool else [None]:
                self.create_topic(spec.full_name(prefix, pool), spec.partitions)

    def append(self, record: Outgoing) -> Record:
        """Write a record; raises Retry for an unknown topic, Poison for one that can never be written."""
        count = self.count(record.topic)
        partition = record.partition if record.partition is not None else partition_for(record.key or b"", count)
        if not 0 <= partition < count:
            raise Poison(f"topic {record.topic} has {count} partitions, there is no {partition}")
        if record.key is None and record.value is None:
            raise Poison(f"topic {record.topic}: a record needs a key or a value")
        if len(record.key or b"") + len(record.value or b"") > self.max_record_bytes:
            raise Poison(f"topic {record.topic}: a record is above the limit of {self.max_record_bytes} bytes")
        tp = TopicPartition(record.topic, partition)
        offset = self._next[tp]
        self._next[tp] = offset + 1
        written = Record(record.topic, partition, offset, self.clock.now_ms(), record.key, record.value, record.headers)
        self._partitions[tp].append(written)
        self.wake(record.topic)
        return written

    def records(self, topic: str) -> list[Record]:
        """All kept records of a topic, by partition and offset."""
        return [record for p in range(self.count(topic)) for record in self._partitions[TopicPartition(topic, p)]]

    def leave_gap(self, topic: str, partition: int, offsets: int) -> None:
        """Use up offsets without records, as compaction and transaction markers do."""
        self._next[TopicPartition(topic, partition)] += offsets

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Drop records below an offset, as retention does."""
        tp = TopicPartition(topic, partition)
        self._first[tp] = max(self._first[tp], min(before, self._next[tp]))
        self._partitions[tp] = [record for record in self._partitions[tp] if record.offset >= self._first[tp]]

    def count(self, topic: str) -> int:
        """Number of partitions; raises Retry for an unknown topic."""
        if topic not in self._counts:
            raise Retry(f"topic {topic}: the log does not know it")
        return self._counts[topic]

    def counts(self) -> Mapping[str, int]:
        """Partitions of every topic."""
        return self._counts

    def bounds(self, tp: TopicPartition) -> tuple[int, int]:
        """First kept offset and end."""
        self.count(tp.topic)
        return self._first[tp], self._next[tp]

    def slice(self, tp: TopicPartition, start: int, limit: int, end: int | None = None) -> list[Record]:
        """Up to ``limit`` records from ``start``, below ``end``."""
        if start >= self._next[tp]:
            return []
        kept = self._partitions[tp]
        first = bisect_left(kept, start, key=_offset)
        last = len(kept) if end is None else bisect_left(kept, end, key=_offset)
        return kept[first : min(last, first + limit)]

    def first_at(self, tp: TopicPartition, timestamp_ms: int) -> int:
        """The first offset whose record is not older than this; the end if there is none."""
        kept = self._partitions[tp]
        return next((record.offset for record in kept if record.timestamp_ms >= timestamp_ms), self._next[tp])

    def group(self, name: str) -> MemoryGroup:
        """The coordinator of a group."""
        if name not in self._groups:
            self._groups[name] = MemoryGroup(self.counts)
        return self._groups[name]

    # --- failures and waiting -------------------------------------------------------------------

    def fail_next(self, operation: Operation, failure: FairlaneError, times: int = 1) -> None:
        """Make the next calls of an operation raise."""
        self._failures.setdefault(operation, deque()).extend([failure] * times)

    def check(self, operation: Operation) -> None:
        """Raise what was ordered for this operation."""
        ordered = self._failures.get(operation)
        if ordered:
            raise ordered.popleft()

    def wake(self, topic: str | None = None) -> None:
        """End every wait, or those for a topic."""
        for waiter, topics in list(self._waiting.items()):
            if topic is None or topics is None or topic in topics:
                del self._waiting[waiter]
                _end(waiter)

    async def wait(self, timeout_s: float, topics: Collection[str] | None = None) -> None:
        """Until something is written (to one of the topics) or changes, at most this long."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting[waiter] = topics
        alarm = loop.call_later(timeout_s, _end, waiter)
        try:
            await waiter
        finally:
            alarm.cancel()
            self._waiting.pop(waiter, None)


_offset = attrgetter("offset")


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemoryPublisher:
    """See :class:`~fairlane.ports.Publisher`. Acknowledges in the next turn of the event loop."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._queue: deque[tuple[Outgoing, asyncio.Future[Record]]] = deque()
        self._holding = False

    async def start(self) -> None:
        """Nothing to do; here so that it can stand in for the Kafka publisher."""

    async def stop(self) -> None:
        """Write what is held back."""
        self.release()

    def hold(self) -> None:
        """Write and acknowledge nothing until :meth:`release`."""
        self._holding = True

    def release(self) -> None:
        """Write what was held back, in order."""
        self._holding = False
        self._write()

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        """Queue a record; see the port."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Record] = loop.create_future()
        self._queue.append((record, future))
        if not self._holding:
            loop.call_soon(self._write)
        return future

    async def partitions(self, topic: str) -> int:
        """Number of partitions."""
        self._log.check("partitions")
        return self._log.count(topic)

    async def flush(self) -> None:
        """Wait until everything queued is acknowledged or failed."""
        if self._queue:
            await asyncio.wait([future for _, future in self._queue])

    def _write(self) -> None:
        while self._queue and not self._holding:
            record, future = self._queue.popleft()
            try:
                self._log.check("send")
                written = self._log.append(record)
                self._log.check("ack")
            except FairlaneError as failure:
                if not future.done():
                    future.set_exception(failure)
            else:
                if not future.done():
                    future.set_result(written)


class MemoryReader:
    """See :class:`~fairlane.ports.LogReader`."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def start(self) -> None:
        """Nothing to do; here so that it can stand in for the Kafka reader."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def ends(self, topic: str) -> Mapping[int, int]:
        """For each partition the offset after its last record."""
        return {tp.partition: self._log.bounds(tp)[1] for tp in self._of(topic)}

    async def starts(self, topic: str) -> Mapping[int, int]:
        """For each partition the first offset that is still kept."""
        return {tp.partition: self._log.bounds(tp)[0] for tp in self._of(topic)}

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        """For each partition the first offset whose record is not older; the end if there is none."""
        return {tp.partition: self._log.first_at(tp, timestamp_ms) for tp in self._of(topic)}

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield records; see the port."""
        self._log.count(topic)
        cursors = {TopicPartition(topic, partition): offset for partition, offset in starts.items()}
        while True:
            self._log.check("read")
            found: list[Record] = []
            for tp, start in list(cursors.items()):
                end = None if ends is None else ends.get(tp.partition, 0)
                records = self._log.slice(tp, start, 500, end)
                if records:
                    cursors[tp] = records[-1].offset + 1
                    found += records
            if found:
                yield found
                await asyncio.sleep(0)
            elif ends is not None:
                return
            else:
                await self._log.wait(IDLE_S, (topic,))
                if not any(self._log.slice(tp, cursors[tp], 1) for tp in cursors):
                    yield []

    async def group_positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """The committed positions of a consumer group, with metadata; partitions without are absent."""
        positions = self._log.group(group).positions
        return {tp.partition: positions[tp] for tp in self._of(topic) if tp in positions}

    def _of(self, topic: str) -> Iterator[TopicPartition]:
        self._log.check("read")
        return (TopicPartition(topic, partition) for partition in range(self._log.count(topic)))
