"""The Faust engine on a real broker: the losses of stock Faust that must not be ours, and its life in a process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.clock import SystemClock
from fairlane.errors import Fatal, Retry
from fairlane.policy.offsets import decode_metadata
from fairlane.ports import Done, Position, Record, Restored, TopicPartition
from fairlane.streams.engines.faust import FaustEngine
from fairlane.telemetry import NO_METRICS

WAIT_S = 30.0
"""Only how long a test waits before it gives up."""

Process = Callable[[Sequence[Record], Done], Awaitable[None]]


async def finishes(batch: Sequence[Record], done: Done) -> None:
    for each in batch:
        done(each)


class Stage:
    """Remembers everything, wakes whoever waits for something to be true."""

    def __init__(self, process: Process = finishes) -> None:
        self.process_batch = process
        self.delivered: list[tuple[int, int]] = []
        self.taken: dict[TopicPartition, Restored] = {}
        self.lost: list[frozenset[TopicPartition]] = []
        self.poisonings: list[int] = []
        self.drained = False
        self._changed = asyncio.Event()

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        assert not self.taken.keys() & partitions.keys(), "owned already"
        self.taken.update(partitions)
        self._changed.set()

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        assert all(each.tp in self.taken for each in batch)
        self.delivered += [(each.partition, each.offset) for each in batch]
        self._changed.set()
        await self.process_batch(batch, done)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        self.poisonings.append(record.offset)
        self._changed.set()

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        for tp in partitions:
            del self.taken[tp]
        self.lost.append(partitions)
        self._changed.set()

    async def drain(self) -> None:
        self.drained = True

    def note(self, partition: TopicPartition) -> str:
        return f"p{partition.partition}"

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Log:
    """One topic of its own on the broker, and engines that read it."""

    bootstrap: str
    directory: Path
    reader: KafkaReader
    producer: AIOKafkaProducer
    topic: str = field(default_factory=lambda: f"engine-{uuid.uuid4().hex}")

    @property
    def group(self) -> str:
        return f"{self.topic}.gate"

    async def write(self, *values: int, partition: int = 0) -> None:
        for value in values:
            await self.producer.send_and_wait(self.topic, b"%d" % value, partition=partition)

    def engine(self, stage: Stage, **changed: Any) -> FaustEngine:
        arguments: dict[str, Any] = {
            "stage_name": "gate",
            "bootstrap": self.bootstrap,
            "group": self.group,
            "topics": [self.topic],
            "instance": None,
            "reader": self.reader,
            "clock": SystemClock(),
            "metrics": NO_METRICS,
            "batch_max_records": 500,
            "window_records": 1_000,
            "commit_interval_ms": 100,
            "session_timeout_ms": 6_000,
            "drain_timeout_ms": 2_000,
            "data_dir": self.directory / "faust",
        }
        return FaustEngine(stage, **{**arguments, **changed})

    async def committed(self, condition: Callable[[Mapping[int, Position]], bool]) -> Mapping[int, Position]:
        """The group's positions, once the condition holds for them."""
        async with asyncio.timeout(WAIT_S):
            while not condition(positions := await self._positions()):  # noqa: ASYNC110 - a broker tells nobody
                await asyncio.sleep(0.02)
            return positions

    async def _positions(self) -> Mapping[int, Position]:
        return await self.reader.group_positions(self.group, self.topic)


@pytest.fixture
async def log(kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[Log]:
    reader = KafkaReader(kafka_bootstrap)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await reader.start()
    await admin.start()
    made = Log(kafka_bootstrap, tmp_path, reader, producer)
    await admin.create_topics([NewTopic(made.topic, 4, 1)])
    await admin.close()
    await producer.start()
    yield made
    await producer.stop()
    await reader.stop()


@contextlib.asynccontextmanager
async def running(engine: FaustEngine) -> AsyncIterator[asyncio.Event]:
    """The engine runs in here and is stopped at the end."""
    stopping = asyncio.Event()
    run = asyncio.create_task(engine.run(stopping))
    try:
        yield stopping
        stopping.set()
        async with asyncio.timeout(WAIT_S):
            await run
    finally:
        run.cancel()
        await asyncio.wait([run])


@contextlib.asynccontextmanager
async def crashing(engine: FaustEngine) -> AsyncIterator[None]:
    """The engine runs in here and is abandoned at the end: no drain, no commit."""
    run = asyncio.create_task(engine.run(asyncio.Event()))
    yield
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


def offsets(stage: Stage, partition: int = 0) -> list[int]:
    return [offset for each, offset in stage.delivered if each == partition]


async def test_an_unfinished_head_is_delivered_again_after_a_crash_though_all_after_it_was_done(log: Log) -> None:
    # Stock Faust commits past it (issue 606): the record would be gone.
    async def leaves_the_head(batch: Sequence[Record], done: Done) -> None:
        for each in batch:
            if each.offset:
                done(each)

    await log.write(*range(10))
    first = Stage(leaves_the_head)
    async with crashing(log.engine(first)):
        positions = await log.committed(
            lambda p: 0 in p and decode_metadata(p[0].offset, p[0].metadata)[0] == set(range(1, 10))
        )
        assert positions[0].offset == 0
    second = Stage()
    async with running(log.engine(second)):
        await second.until(lambda: bool(second.taken))
        await log.write(10)
        await second.until(lambda: len(second.delivered) == 2)
    assert offsets(second) == [0, 10]
    restored = second.taken[TopicPartition(log.topic, 0)]
    assert (restored.offset, restored.end, restored.finished) == (0, 10, frozenset(range(1, 10)))
    assert restored.note == "p0"


async def test_a_batch_whose_stage_raises_loses_nothing(log: Log) -> None:
    # Stock Faust acknowledges an event when its agent raises: the whole batch would be gone.
    async def fails_at_three(batch: Sequence[Record], done: Done) -> None:
        for each in batch:
            if each.offset == 3:
                raise KeyError("bug")
            done(each)

    await log.write(*range(6))
    stage = Stage(fails_at_three)
    async with running(log.engine(stage)):
        await log.committed(lambda p: 0 in p and p[0].offset == 6)
    assert stage.poisonings == [3]
    assert set(offsets(stage)) == set(range(6))


async def test_a_crash_of_the_stage_is_raised_and_the_next_process_gets_the_record_again(log: Log) -> None:
    async def breaks(batch: Sequence[Record], done: Done) -> None:
        for each in batch:
            if each.offset == 2:
                raise Fatal("disk is full")
            done(each)

    await log.write(*range(4))
    with pytest.raises(Fatal, match="disk is full"):
        await log.engine(Stage(breaks)).run(asyncio.Event())
    second = Stage()
    async with running(log.engine(second)):
        await second.until(lambda: len(second.delivered) == 2)
    assert offsets(second) == [2, 3]


async def test_retry_delivers_what_is_not_done_again_and_the_order_stays(log: Log) -> None:
    failures = 2

    async def away(batch: Sequence[Record], done: Done) -> None:
        nonlocal failures
        for each in batch:
            if each.offset == 1 and failures:
                failures -= 1
                raise Retry("store is away", after=0.01)
            done(each)

    await log.write(0, 1, 2)
    stage = Stage(away)
    async with running(log.engine(stage)):
        await log.committed(lambda p: 0 in p and p[0].offset == 3)
    assert list(dict.fromkeys(offsets(stage))) == [0, 1, 2]
    assert offsets(stage).count(0) == 1
    assert stage.poisonings == []


async def test_a_partition_that_stays_keeps_what_is_in_flight_and_one_that_goes_is_given_up(log: Log) -> None:
    pending: list[tuple[Record, Done]] = []

    async def holds(batch: Sequence[Record], done: Done) -> None:
        pending.extend((each, done) for each in batch)

    for partition in range(4):
        await log.write(0, 1, partition=partition)
    first, second = Stage(holds), Stage()
    async with running(log.engine(first)):
        await first.until(lambda: len(first.delivered) == 8)
        async with running(log.engine(second)):
            await second.until(lambda: len(second.delivered) == 4)
            await first.until(lambda: len(first.taken) == 2)
            for each, done in pending:
                done(each)
            await log.write(2, partition=min(tp.partition for tp in first.taken))
            await first.until(lambda: len(first.delivered) == 9)
            positions = await log.committed(lambda p: all(p[n].offset >= 2 for n in range(4)))
    assert len(positions) == 4
    (lost,) = first.lost
    assert {partition for partition, _ in second.delivered} == {tp.partition for tp in lost}
    assert sorted(set(first.delivered)) == sorted(first.delivered), "what stayed was delivered again"


async def test_stopping_drains_commits_and_leaves(log: Log) -> None:
    late: list[tuple[Record, Done]] = []

    async def holds(batch: Sequence[Record], done: Done) -> None:
        late.extend((each, done) for each in batch)

    class Draining(Stage):
        async def drain(self) -> None:
            for each, done in late:
                done(each)
            self.drained = True

    await log.write(0, 1)
    stage = Draining(holds)
    engine = log.engine(stage)
    ready = [engine.ready]
    async with running(engine):
        await stage.until(lambda: len(stage.delivered) == 2)
        ready.append(engine.ready)
    ready.append(engine.ready)
    assert ready == [False, True, False]
    assert stage.drained
    positions = await log.reader.group_positions(log.group, log.topic)
    assert positions[0].offset == 2


async def test_a_stage_that_hangs_does_not_keep_the_process(log: Log) -> None:
    async def hangs(batch: Sequence[Record], done: Done) -> None:
        await asyncio.Event().wait()

    class NeverDrained(Stage):
        async def drain(self) -> None:
            await asyncio.Event().wait()

    await log.write(0)
    stage = NeverDrained(hangs)
    async with running(log.engine(stage, drain_timeout_ms=200)):
        await stage.until(lambda: len(stage.delivered) == 1)
    second = Stage()
    async with running(log.engine(second)):
        await second.until(lambda: len(second.delivered) == 1)


async def test_no_more_than_the_window_is_ever_unfinished(log: Log) -> None:
    open_now: dict[int, Callable[[], None]] = {}
    most = 0

    async def later(batch: Sequence[Record], done: Done) -> None:
        nonlocal most
        for each in batch:
            open_now[each.offset] = lambda each=each: done(each)  # type: ignore[misc]
        most = max(most, len(open_now))
        for offset in list(open_now)[:-1]:
            asyncio.get_running_loop().call_soon(open_now.pop(offset))

    await log.write(*range(50))
    stage = Stage(later)
    async with running(log.engine(stage, window_records=5)):
        await stage.until(lambda: len(stage.delivered) == 50)
    assert offsets(stage) == list(range(50))
    assert most == 5


async def test_a_process_with_the_same_instance_name_takes_over_at_once(log: Log) -> None:
    await log.write(0)
    first = Stage()
    # The session is longer than this test waits: only static membership can give the partitions back.
    async with crashing(log.engine(first, instance="gate-0", session_timeout_ms=60_000)):
        await log.committed(lambda p: 0 in p and p[0].offset == 1)
    second = Stage()
    async with running(log.engine(second, instance="gate-0", session_timeout_ms=60_000)):
        await log.write(1)
        await second.until(lambda: len(second.delivered) == 1)
    assert offsets(second) == [1]


async def test_a_broker_that_cannot_be_reached_is_said_and_not_waited_for(log: Log) -> None:
    engine = log.engine(Stage(), bootstrap="127.0.0.1:1")
    with pytest.raises(Fatal, match=r"127\.0\.0\.1:1"):
        async with asyncio.timeout(WAIT_S):
            await engine.run(asyncio.Event())


async def test_stopping_before_the_group_was_joined_ends_the_engine(log: Log) -> None:
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.timeout(WAIT_S):
        await log.engine(Stage()).run(stopping)


async def test_taking_partitions_is_tried_again_while_something_is_away(log: Log) -> None:
    class Impatient(Stage):
        tries = 0

        async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
            self.tries += 1
            if self.tries < 3:
                raise Retry("store is away", after=0.01)
            await super().assigned(partitions)

    await log.write(0)
    stage = Impatient()
    async with running(log.engine(stage)):
        await stage.until(lambda: len(stage.delivered) == 1)
    assert stage.tries == 3


async def test_nothing_is_written_outside_of_the_data_directory(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    await log.write(0)
    stage = Stage()
    async with running(log.engine(stage)):
        await stage.until(lambda: len(stage.delivered) == 1)
    assert not any(elsewhere.iterdir())
