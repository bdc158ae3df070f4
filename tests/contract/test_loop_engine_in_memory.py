"""The loop engine keeps the behaviour of every engine, on the log in memory; and what only it shows there."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.clock import SystemClock
from fairlane.errors import Retry
from fairlane.ports import Bounds, Position, Record, Restored, TopicPartition
from fairlane.streams.engines.loop import LoopEngine
from fairlane.telemetry import NO_METRICS
from tests.contract.engine_behaviour import EngineBehaviour, RememberingStage, at, committed, until, write
from tests.late_commits import LateCommits


class LoopProcess:
    def __init__(self, consumer: MemoryConsumer, stage: RememberingStage, window: int, batch: int) -> None:
        self.consumer = consumer
        self.engine = LoopEngine(
            consumer,
            stage,
            SystemClock(),
            NO_METRICS,
            stage_name="worker",
            batch_max_records=batch,
            window_records=window,
            commit_interval_ms=20,
            drain_timeout_ms=5_000,
        )
        self._stopping = asyncio.Event()
        self.running = asyncio.create_task(self.engine.run(self._stopping))

    async def stop(self) -> None:
        self._stopping.set()
        await self.running

    async def kill(self) -> None:
        self.consumer.vanish()
        self.running.cancel()
        await asyncio.wait([self.running])


class MemoryWorld:
    def __init__(self) -> None:
        self.memory = MemoryLog()
        self.publisher = MemoryPublisher(self.memory)
        self.reader = MemoryReader(self.memory)
        self.processes: list[LoopProcess] = []

    async def topic(self, partitions: int = 4, name: str = "t") -> str:
        self.memory.create_topic(name, partitions)
        return name

    def name(self, base: str) -> str:
        return base

    async def process(
        self, stage: RememberingStage, group: str, topic: str, *, window: int = 1_000, batch: int = 100
    ) -> LoopProcess:
        consumer = MemoryConsumer(self.memory, group, [topic], session_timeout_ms=200)
        self.processes.append(process := LoopProcess(consumer, stage, window, batch))
        return process


@pytest.fixture
async def world() -> MemoryWorld:
    return MemoryWorld()


class TestLoopEngineInMemory(EngineBehaviour):
    async def test_nothing_is_delivered_before_a_successor_can_know_that_somebody_was_here(
        self, world: MemoryWorld
    ) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        await write(world, topic, 3)
        known: list[bool] = []

        def finishes(record: Record) -> bool:
            known.append(record.tp in world.memory.group("g").positions)
            return True

        stage.finishes = finishes
        world.memory.fail_next("commit", Retry("the coordinator does not answer", after=0.01), times=3)
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(3))
        assert known == [True] * 3
        await process.stop()

    async def test_polls_that_fail_for_a_while_lose_nothing(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        await write(world, topic, 5)
        world.memory.fail_next("poll", Retry("no broker", after=0.01), times=4)
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(5))
        world.memory.fail_next("poll", Retry("no broker", after=0.01), times=3)
        await write(world, topic, 5)
        await committed(world, "g", topic, at(10))
        await process.stop()

    async def test_a_commit_that_fails_is_repeated_also_at_the_very_end(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        process = await world.process(stage, "g", topic)
        await until(lambda: process.engine.ready, process)
        world.memory.fail_next("commit", Retry("no coordinator"), times=3)
        await write(world, topic, 5)
        await committed(world, "g", topic, at(5))
        stage.finishes = lambda _: False
        await write(world, topic, 5)
        await until(lambda: len(stage.in_flight) == 5, process)
        world.memory.fail_next("commit", Retry("no coordinator"), times=2)
        await process.stop()
        assert (await world.reader.group_positions("g", topic))[0].offset == 10

    async def test_a_member_that_was_put_out_lets_go_and_starts_afresh(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        stage.finishes = lambda record: record.offset < 2
        await write(world, topic, 5)
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(2))
        group = world.memory.group("g")
        group.leave(process.consumer._name)
        await until(lambda: len(stage.taken) == 2, process)
        assert stage.lost == [{TopicPartition(topic, 0)}]
        await until(lambda: len(stage.delivered) == 8, process)
        assert [offset for _, offset in stage.delivered] == [0, 1, 2, 3, 4, 2, 3, 4]
        await process.stop()

    async def test_a_commit_that_a_rebalance_overtook_costs_no_partition(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        consumer = LateCommits(world.memory, "g", [topic])
        process = LoopProcess(consumer, stage, window=1_000, batch=100)
        stage.finishes = lambda record: record.offset < 2
        await until(lambda: process.engine.ready, process)
        consumer.away = True
        await write(world, topic, 5)
        await until(lambda: len(stage.in_flight) == 3 and consumer.turned_away > 0, process)
        async with consumer.between_generations():
            consumer.away, consumer.late = False, True
            await until(lambda: consumer.under_way, process)
        stage.finish(lambda _: True)
        await committed(world, "g", topic, at(5))
        assert stage.lost == []
        assert Counter(stage.delivered).most_common(1)[0][1] == 1
        await process.stop()

    async def test_what_retention_deleted_is_passed_over(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        await write(world, topic, 10)
        world.memory.group("g").positions[TopicPartition(topic, 0)] = Position(2)
        world.memory.trim(topic, 0, 6)
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(10))
        assert [offset for _, offset in stage.delivered] == [6, 7, 8, 9]
        await process.stop()

    async def test_a_topic_made_anew_is_read_from_its_start(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        await write(world, topic, 3)
        world.memory.group("g").positions[TopicPartition(topic, 0)] = Position(500, "someone else's")
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(3))
        assert stage.taken == [{TopicPartition(topic, 0): Restored(0, 3)}]
        await process.stop()

    async def test_a_position_behind_an_open_transaction_is_gone_on_from(
        self, world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        await write(world, topic, 5)
        tp = TopicPartition(topic, 0)

        async def bounds(
            _consumer: MemoryConsumer, partitions: frozenset[TopicPartition]
        ) -> dict[TopicPartition, Bounds]:
            return dict.fromkeys(partitions, Bounds(0, 2, 5))

        monkeypatch.setattr(MemoryConsumer, "bounds", bounds)
        world.memory.group("g").positions[tp] = Position(4, "")
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(5))
        assert stage.taken == [{tp: Restored(4, 2)}]
        await process.stop()

    async def test_a_gap_in_the_log_is_committed_past(self, world: MemoryWorld) -> None:
        topic, stage = await world.topic(1), RememberingStage()
        await write(world, topic, 3)
        world.memory.leave_gap(topic, 0, 100)
        await write(world, topic, 3)
        process = await world.process(stage, "g", topic)
        await committed(world, "g", topic, at(106))
        await process.stop()

    async def test_a_partition_that_goes_while_the_stage_takes_it_in_is_let_go_again(self, world: MemoryWorld) -> None:
        topic, slow, quick = await world.topic(2), SlowToTake(), RememberingStage()
        first = await world.process(slow, "g", topic)
        await until(lambda: slow.asked == 1, first)
        second = await world.process(quick, "g", topic)
        await until(lambda: len(quick.owned) == 1, first, second)
        slow.go_on.set()
        await until(lambda: slow.owned.keys() | quick.owned.keys() == {TopicPartition(topic, p) for p in (0, 1)})
        await until(lambda: first.engine.ready and second.engine.ready, first, second)
        assert not slow.owned.keys() & quick.owned.keys()
        await write(world, topic, 5, 0)
        await write(world, topic, 5, 1)
        await until(lambda: len(slow.delivered) == len(quick.delivered) == 5, first, second)
        await first.stop()
        await second.stop()

    async def test_taking_in_is_cut_short_when_some_of_it_goes_before_the_lease_counts_again(
        self, world: MemoryWorld
    ) -> None:
        topic, slow, quick = await world.topic(2), SlowToTake(), RememberingStage()
        first = await world.process(slow, "g", topic)
        await until(lambda: slow.asked == 1, first)
        second = await world.process(quick, "g", topic)
        await until(lambda: len(quick.owned) == 1 and first.consumer.lease_ok(), first, second)
        # It may have been about to write for what the other owns now.
        assert slow.cut == 1
        slow.go_on.set()
        await until(lambda: first.engine.ready, first, second)
        assert len(slow.owned) == 1
        await first.stop()
        await second.stop()


class SlowToTake(RememberingStage):
    def __init__(self) -> None:
        super().__init__()
        self.asked = self.cut = 0
        self.go_on = asyncio.Event()

    async def assigned(self, partitions: object) -> None:
        self.asked += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        await super().assigned(partitions)  # type: ignore[arg-type]
