"""The log as processes meet it over a network: delays, lost acknowledgements, sessions that end.

Built on the log in memory, which passes the contract suites of the Kafka adapters. Keeps the history of
everything that became true on the broker, in order, for the checker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.adapters.memory_group import Membership, MemoryGroup
from fairlane.adapters.memory_log import MemoryLog, MemoryReader, Operation
from fairlane.clock import Clock
from fairlane.devstack.simulation.conditions import UNANSWERED_S, Conditions
from fairlane.devstack.simulation.virtual_loop import Process, within
from fairlane.errors import Fatal, Poison, Retry
from fairlane.policy.assignment import Assignment
from fairlane.ports import Outgoing, OwnershipLost, Position, Record, TopicPartition
from fairlane.schemas.topics import partition_for


@dataclass(frozen=True, slots=True)
class Appended:
    """A record became part of the log. ``late``: its writer had given it up before, or had been replaced."""

    at_s: float
    record: Record
    writer: str
    late: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """A group's positions changed."""

    at_s: float
    group: str
    positions: Mapping[TopicPartition, Position]
    member: str


History = list[Appended | Committed]


class SimulatedGroup(MemoryGroup):
    """A coordinator whose timers live on the broker, whoever caused them."""

    def join(self, membership: Membership) -> str:
        """Enter."""
        with within(None):
            return super().join(membership)

    def rejoin(self, name: str) -> None:
        """Ready for the next generation."""
        with within(None):
            super().rejoin(name)

    def leave(self, name: str) -> None:
        """Go."""
        with within(None):
            super().leave(name)

    def silent(self, name: str) -> None:
        """Heartbeats stopped."""
        with within(None):
            super().silent(name)


class SimulatedLog(MemoryLog):
    """The broker."""

    def __init__(self, clock: Clock, conditions: Conditions) -> None:
        super().__init__(clock)
        self.conditions = conditions
        self.history: History = []

    def check(self, operation: Operation) -> None:
        """Raise Retry while the brokers are away."""
        if self.conditions.log_away:
            raise Retry("the brokers do not answer", after=0.1)

    def group(self, name: str) -> MemoryGroup:
        """The coordinator of a group."""
        if name not in self._groups:
            self._groups[name] = SimulatedGroup(self.counts, rebalance_timeout_ms=2_000)
        return self._groups[name]

    def write(self, record: Outgoing, writer: str, *, late: bool = False) -> Record:
        """Append, and note it in the history."""
        written = self.append(record)
        self.history.append(Appended(asyncio.get_running_loop().time(), written, writer, late))
        return written


class SimulatedPublisher:
    """See :class:`~fairlane.ports.Publisher`. Records of a partition arrive in order, those of several in any.

    What a process has sent when it is killed arrives up to ``linger_s`` later or not at all. What a
    frozen process has sent may stay in it until it goes on.
    """

    def __init__(self, log: SimulatedLog, process: Process) -> None:
        self._log = log
        self._process = process
        self._conditions = log.conditions
        self._arrivals: dict[TopicPartition, float] = {}
        self._unanswered: dict[asyncio.Future[Record], None] = {}
        self._stalled: list[tuple[Outgoing, asyncio.Future[Record]]] = []
        self._stopping = False
        self.at_next_write: Callable[[], None] | None = None
        """What happens as soon as the next record is handed over."""
        self.cut_at: float | None = None
        """From this time on nothing more arrives: the process was killed before."""

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        """Queue a record."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Record] = loop.create_future()
        if self._stopping:
            future.set_exception(Fatal("the publisher is not running"))
            return future
        try:
            count = self._log.count(record.topic)
        except Retry as unknown:
            future.set_exception(unknown)
            return future
        partition = record.partition if record.partition is not None else partition_for(record.key or b"", count)
        if len(record.key or b"") + len(record.value or b"") > self._log.max_record_bytes:
            future.set_exception(Poison(f"topic {record.topic}: a record is above the limit"))
            return future
        tp = TopicPartition(record.topic, partition)
        arrival = max(self._arrivals.get(tp, 0.0), loop.time() + self._conditions.delay())
        self._arrivals[tp] = arrival
        self._unanswered[future] = None
        future.add_done_callback(lambda done: self._unanswered.pop(done, None))
        with within(None):
            loop.call_at(arrival, self._arrive, record, future)
            if self.at_next_write is not None:
                self.at_next_write()
        return future

    async def partitions(self, topic: str) -> int:
        """Number of partitions."""
        self._log.check("partitions")
        return self._log.count(topic)

    async def flush(self) -> None:
        """Wait until everything queued is acknowledged or failed."""
        if self._unanswered:
            await asyncio.wait(list(self._unanswered))

    async def stop(self) -> None:
        """Take nothing more, and wait until what was queued has left."""
        self._stopping = True
        await self.flush()

    def go_on(self) -> None:
        """The process runs again: what stayed in it goes out now."""
        stalled, self._stalled = self._stalled, []
        for record, future in stalled:
            self._append(record, future, late=True)

    def _arrive(self, record: Outgoing, future: asyncio.Future[Record]) -> None:
        loop, process, conditions = asyncio.get_running_loop(), self._process, self._conditions
        if self.cut_at is not None and loop.time() > self.cut_at:
            return
        if process.frozen or self._stalled:
            self._stalled.append((record, future))
        elif conditions.log_away or conditions.goes_wrong("send", process):
            loop.call_later(UNANSWERED_S, _fail, future)
        else:
            self._append(record, future, late=False)

    def _append(self, record: Outgoing, future: asyncio.Future[Record], late: bool) -> None:
        loop = asyncio.get_running_loop()
        written = self._log.write(record, self._process.name, late=late)
        if self._conditions.goes_wrong("ack", self._process):
            loop.call_later(UNANSWERED_S, _fail, future)
        else:
            loop.call_later(self._conditions.delay(), _acknowledge, future, written)


def _fail(future: asyncio.Future[Record]) -> None:
    if not future.done():
        future.set_exception(Retry("no acknowledgement in time", after=0.05))


def _acknowledge(future: asyncio.Future[Record], written: Record) -> None:
    if not future.done():
        future.set_result(written)


class SimulatedReader(MemoryReader):
    """See :class:`~fairlane.ports.LogReader`; every question takes its time."""

    def __init__(self, log: SimulatedLog) -> None:
        super().__init__(log)
        self._conditions = log.conditions

    async def ends(self, topic: str) -> Mapping[int, int]:
        """Ends by partition."""
        await asyncio.sleep(self._conditions.delay())
        return await super().ends(topic)

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        """Offsets by time."""
        await asyncio.sleep(self._conditions.delay())
        return await super().offsets_at(topic, timestamp_ms)

    async def group_positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """Committed positions."""
        await asyncio.sleep(self._conditions.delay())
        return await super().group_positions(group, topic)

    def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """Records of a range that holds any; an empty range needs no question."""
        if ends is not None and all(ends.get(partition, 0) <= start for partition, start in starts.items()):
            return _nothing()
        return super().read(topic, starts, ends, committed_only=committed_only)


async def _nothing() -> AsyncIterator[Sequence[Record]]:
    nothing: Sequence[Sequence[Record]] = ()
    for batch in nothing:
        yield batch


class SimulatedConsumer(MemoryConsumer):
    """See :class:`~fairlane.ports.LogConsumer`; a commit travels, and its answer may be lost."""

    def __init__(
        self,
        log: SimulatedLog,
        process: Process,
        group: str,
        topics: Iterable[str] = (),
        *,
        pattern: str | None = None,
        instance: str = "",
        session_timeout_ms: int,
        assign: Assignment,
    ) -> None:
        super().__init__(
            log, group, topics, pattern=pattern, instance=instance, session_timeout_ms=session_timeout_ms, assign=assign
        )
        self._process = process
        self._history = log.history
        self._conditions = log.conditions
        self._group_name = group

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Commit."""
        # Which generation asks is fixed when it asks, as in a request's header.
        asked = (self._name, self._generation)

        async def at_the_broker() -> None:
            if asked != (self._name, self._generation):
                raise OwnershipLost(f"{self._process.name} asked in an earlier generation")
            await MemoryConsumer.commit(self, positions)
            now = asyncio.get_running_loop().time()
            self._history.append(Committed(now, self._group_name, dict(positions), self._process.name))

        lose = self._conditions.goes_wrong("commit", self._process)
        await self._conditions.remotely(at_the_broker, lose_answer=lose)
