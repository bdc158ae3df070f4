"""What every engine does with a stage, on whatever log. Run on the loop engine in memory and on both on Kafka.

A test module makes a fixture ``world`` of :class:`EngineWorld` and subclasses :class:`EngineBehaviour`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import pytest

from fairlane.errors import Fatal, Retry
from fairlane.policy.offsets import decode_metadata
from fairlane.ports import Done, Engine, LogReader, Outgoing, Position, Publisher, Record, Restored, TopicPartition

PATIENCE_S = 60.0
"""How long a condition may take before the test fails; never a pause."""


class Process(Protocol):
    """An engine that runs as it does in a process of its own."""

    running: asyncio.Task[None]

    @property
    def engine(self) -> Engine:
        """What runs."""
        ...

    async def stop(self) -> None:
        """Stop in order; raises what the engine raised."""
        ...

    async def kill(self) -> None:
        """As kill -9: nothing more is committed and nobody is told."""
        ...


class EngineWorld(Protocol):
    """A log and a kind of engine."""

    @property
    def publisher(self) -> Publisher:
        """Started."""
        ...

    @property
    def reader(self) -> LogReader:
        """Started."""
        ...

    async def topic(self, partitions: int = 4, name: str = "t") -> str:
        """A new topic."""
        ...

    def name(self, base: str) -> str:
        """A name nobody else uses."""
        ...

    async def process(
        self, stage: RememberingStage, group: str, topic: str, *, window: int = 1_000, batch: int = 100
    ) -> Process:
        """Start an engine; it commits often and its session is short."""
        ...


class RememberingStage:
    """Takes what it is given, finishes what it may, and remembers everything."""

    def __init__(self) -> None:
        self.delivered: list[tuple[int, int]] = []
        self.owned: dict[TopicPartition, Restored] = {}
        self.taken: list[Mapping[TopicPartition, Restored]] = []
        self.lost: list[frozenset[TopicPartition]] = []
        self.poisonings: list[tuple[int, str]] = []
        self.drained = False
        self.finishes: Callable[[Record], bool] = lambda _: True
        """Whether a record is finished as soon as it is delivered."""
        self.raises: Callable[[Record], Exception | None] = lambda _: None
        self.refuses_to_take: list[Exception] = []
        self.blocked: asyncio.Event | None = None
        """While set, and not opened, a call of process does not return."""
        self._open: dict[tuple[int, int], tuple[Record, Done]] = {}

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        assert not self.owned.keys() & partitions.keys(), "taken twice"
        if self.refuses_to_take:
            raise self.refuses_to_take.pop()
        self.owned.update(partitions)
        self.taken.append(dict(partitions))

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        for record in batch:
            assert record.tp in self.owned, "delivered before it was taken or after it was lost"
            assert (record.partition, record.offset) not in self._open, "delivered again while in flight"
        self.delivered += [(record.partition, record.offset) for record in batch]
        for record in batch:
            if (failure := self.raises(record)) is not None:
                raise failure
        for record in batch:
            if self.finishes(record):
                done(record)
            else:
                self._open[record.partition, record.offset] = (record, done)
        if self.blocked is not None:
            await self.blocked.wait()

    async def poisoned(self, record: Record, failure: Exception) -> None:
        self.poisonings.append((record.offset, str(failure)))

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        for tp in partitions:
            del self.owned[tp]
        self.lost.append(partitions)
        gone = {tp.partition for tp in partitions}
        self._open = {at: entry for at, entry in self._open.items() if at[0] not in gone}

    async def drain(self) -> None:
        self.finish(lambda _: True)
        self.drained = True

    def note(self, partition: TopicPartition) -> str:
        return f"note of {partition.partition}"

    @property
    def in_flight(self) -> set[tuple[int, int]]:
        return set(self._open)

    def finish(self, which: Callable[[Record], bool], *, backwards: bool = True) -> None:
        """Finish what is in flight, the latest first."""
        for at in sorted(self._open, reverse=backwards):
            record, done = self._open[at]
            if which(record):
                del self._open[at]
                done(record)


async def until(condition: Callable[[], bool], *processes: Process) -> None:
    """Wait for it; an engine that fails meanwhile fails the test at once."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            for process in processes:
                if process.running.done():
                    process.running.result()
            await asyncio.sleep(0.005)


async def write(world: EngineWorld, topic: str, count: int, partition: int = 0) -> None:
    await asyncio.gather(
        *(world.publisher.send(Outgoing(topic, b"k", b"%d" % i, partition=partition)) for i in range(count))
    )


async def committed(
    world: EngineWorld, group: str, topic: str, wanted: Callable[[Mapping[int, Position]], bool]
) -> Mapping[int, Position]:
    """The committed positions once they are as wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while not wanted(positions := await world.reader.group_positions(group, topic)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # a broker tells nobody of a commit
    return positions


def at(offset: int) -> Callable[[Mapping[int, Position]], bool]:
    """Whether partition 0 is committed here."""
    return lambda positions: 0 in positions and positions[0].offset == offset


class EngineBehaviour:
    async def test_everything_is_delivered_in_order_and_committed_with_the_stages_note(
        self, world: EngineWorld
    ) -> None:
        topic, group, stage = await world.topic(3), world.name("g"), RememberingStage()
        for partition in range(3):
            await write(world, topic, 250, partition)
        process = await world.process(stage, group, topic)
        await until(lambda: len(stage.delivered) >= 750, process)
        for partition in range(3):
            assert [o for p, o in stage.delivered if p == partition] == list(range(250))
        assert process.engine.ready
        positions = await committed(
            world, group, topic, lambda at: len(at) == 3 and all(each.offset == 250 for each in at.values())
        )
        assert decode_metadata(250, positions[1].metadata) == (frozenset(), "note of 1")
        await process.stop()
        assert not process.engine.ready

    async def test_records_finished_out_of_order_never_move_the_commit_past_one_in_flight(
        self, world: EngineWorld
    ) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.finishes = lambda record: record.offset not in {0, 7}
        await write(world, topic, 20)
        process = await world.process(stage, group, topic)
        await until(lambda: len(stage.delivered) == 20, process)
        await committed(
            world,
            group,
            topic,
            lambda at: 0 in at and len(decode_metadata(at[0].offset, at[0].metadata)[0]) == 18 and at[0].offset == 0,
        )
        stage.finish(lambda record: record.offset == 0)
        await committed(world, group, topic, at(7))
        stage.finish(lambda record: record.offset == 7)
        await committed(world, group, topic, at(20))
        await process.stop()

    async def test_after_a_crash_exactly_the_unfinished_records_are_delivered_again(self, world: EngineWorld) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.finishes = lambda record: record.offset % 3 == 1
        await write(world, topic, 30)
        process = await world.process(stage, group, topic)
        await until(lambda: len(stage.delivered) == 30, process)
        finished = {offset for offset in range(30) if offset % 3 == 1}
        await committed(
            world, group, topic, lambda at: 0 in at and decode_metadata(at[0].offset, at[0].metadata)[0] == finished
        )
        await process.kill()
        heir = RememberingStage()
        successor = await world.process(heir, group, topic)
        await until(lambda: len(heir.delivered) >= 20, successor)
        assert heir.taken == [{TopicPartition(topic, 0): Restored(0, 30, frozenset(finished), "note of 0")}]
        await write(world, topic, 1)
        await until(lambda: (0, 30) in heir.delivered, successor)
        assert [offset for _, offset in heir.delivered] == [o for o in range(31) if o not in finished]
        await committed(world, group, topic, at(31))
        await successor.stop()

    async def test_a_batch_the_stage_raises_on_is_tried_again_and_nothing_of_it_is_lost(
        self, world: EngineWorld
    ) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        failures = [RuntimeError("a bug"), RuntimeError("the same bug")]
        stage.raises = lambda record: failures.pop() if record.offset == 3 and failures else None
        await write(world, topic, 10)
        process = await world.process(stage, group, topic)
        await committed(world, group, topic, at(10))
        assert {offset for _, offset in stage.delivered} == set(range(10))
        assert stage.poisonings == []
        await process.stop()

    async def test_a_retry_delivers_again_after_its_delay(self, world: EngineWorld) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        failures = [Retry("away", after=0.01) for _ in range(3)]
        stage.raises = lambda record: failures.pop() if failures else None
        await write(world, topic, 5)
        process = await world.process(stage, group, topic)
        await committed(world, group, topic, at(5))
        assert failures == []
        await process.stop()

    async def test_a_record_that_fails_every_try_gets_its_terminal_and_the_partition_goes_on(
        self, world: EngineWorld
    ) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.raises = lambda record: RuntimeError("cannot be") if record.offset == 4 else None
        await write(world, topic, 10)
        process = await world.process(stage, group, topic)
        await committed(world, group, topic, at(10))
        assert stage.poisonings == [(4, "cannot be")]
        assert {offset for _, offset in stage.delivered} == set(range(10))
        await process.stop()

    async def test_a_fatal_error_ends_the_engine_and_what_was_not_finished_stays_uncommitted(
        self, world: EngineWorld
    ) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.raises = lambda record: Fatal("cannot go on") if record.offset == 5 else None
        await write(world, topic, 5)
        process = await world.process(stage, group, topic)
        await committed(world, group, topic, at(5))
        await write(world, topic, 1)
        with pytest.raises(Fatal, match="cannot go on"):
            await asyncio.wait_for(process.running, PATIENCE_S)
        assert (await world.reader.group_positions(group, topic))[0].offset == 5

    async def test_the_window_bounds_what_is_in_flight_of_a_partition_and_of_that_one_only(
        self, world: EngineWorld
    ) -> None:
        topic, group, stage = await world.topic(2), world.name("g"), RememberingStage()
        stage.finishes = lambda record: record.partition == 1
        await write(world, topic, 400, partition=0)
        process = await world.process(stage, group, topic, window=50, batch=20)
        await until(lambda: len(stage.in_flight) > 30, process)
        # Far more than a window of the other partition goes through meanwhile.
        await write(world, topic, 400, partition=1)
        await until(lambda: sum(p == 1 for p, _ in stage.delivered) == 400, process)
        assert len(stage.in_flight) <= 50
        stage.finishes = lambda _: True
        stage.finish(lambda _: True)
        await until(lambda: sum(p == 0 for p, _ in stage.delivered) == 400, process)
        assert Counter(stage.delivered).most_common(1)[0][1] == 1
        await process.stop()

    async def test_one_slow_record_does_not_hold_up_those_behind_it(self, world: EngineWorld) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.finishes = lambda record: record.offset != 0
        await write(world, topic, 500)
        process = await world.process(stage, group, topic, window=20, batch=10)
        await until(lambda: len(stage.delivered) == 500, process)
        assert stage.in_flight == {(0, 0)}
        await process.stop()

    async def test_stopping_lets_the_stage_finish_and_commits_it(self, world: EngineWorld) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.finishes = lambda _: False
        await write(world, topic, 10)
        process = await world.process(stage, group, topic)
        await until(lambda: len(stage.in_flight) == 10, process)
        await process.stop()
        assert stage.drained
        assert (await world.reader.group_positions(group, topic))[0].offset == 10

    async def test_a_stage_that_cannot_take_its_partitions_yet_is_asked_again(self, world: EngineWorld) -> None:
        topic, group, stage = await world.topic(1), world.name("g"), RememberingStage()
        stage.refuses_to_take = [Retry("not yet", after=0.01), Retry("not yet", after=0.01)]
        await write(world, topic, 5)
        process = await world.process(stage, group, topic)
        await committed(world, group, topic, at(5))
        assert len(stage.taken) == 1
        await process.stop()

    async def test_a_second_member_gets_its_share_and_what_stays_is_not_delivered_again(
        self, world: EngineWorld
    ) -> None:
        topic, group = await world.topic(4), world.name("g")
        one, two = RememberingStage(), RememberingStage()
        one.finishes = two.finishes = lambda record: record.offset % 2 == 0
        for partition in range(4):
            await write(world, topic, 20, partition)
        first = await world.process(one, group, topic)
        await until(lambda: len(one.in_flight) == 40, first)
        second = await world.process(two, group, topic)
        await until(lambda: len(two.owned) == 2 and len(one.owned) == 2 and len(two.in_flight) == 20, first, second)
        assert {tp.partition for tp in one.owned} | {tp.partition for tp in two.owned} == {0, 1, 2, 3}
        # The first keeps what it has in flight of its half and heard nothing of the rebalance but its loss.
        assert len(one.in_flight) == 20
        assert one.lost == [frozenset(two.owned)]
        assert Counter(one.delivered).most_common(1)[0][1] == 1
        # The second does what was unfinished of the other half, and nothing else.
        assert set(two.delivered) == {(tp.partition, offset) for tp in two.owned for offset in range(1, 20, 2)}
        for partition in range(4):
            await write(world, topic, 10, partition)
        one.finishes = two.finishes = lambda _: True
        one.finish(lambda _: True)
        two.finish(lambda _: True)
        await committed(world, group, topic, lambda at: len(at) == 4 and all(each.offset == 30 for each in at.values()))
        await asyncio.gather(first.stop(), second.stop())

    async def test_a_busy_stage_does_not_hold_up_a_rebalance(self, world: EngineWorld) -> None:
        topic, group = await world.topic(2), world.name("g")
        one, two = RememberingStage(), RememberingStage()
        one.blocked = asyncio.Event()
        await write(world, topic, 5, partition=0)
        await write(world, topic, 5, partition=1)
        first = await world.process(one, group, topic)
        await until(lambda: bool(one.delivered), first)
        second = await world.process(two, group, topic)
        await until(lambda: len(two.owned) == 1, first, second)
        one.blocked.set()
        one.blocked = None
        await committed(world, group, topic, lambda at: len(at) == 2 and all(each.offset == 5 for each in at.values()))
        assert {p for p, _ in one.delivered} | {p for p, _ in two.delivered} == {0, 1}
        await asyncio.gather(first.stop(), second.stop())

    async def test_when_a_member_dies_the_other_goes_on_with_its_partitions(self, world: EngineWorld) -> None:
        topic, group = await world.topic(2), world.name("g")
        one, two = RememberingStage(), RememberingStage()
        one.finishes = lambda record: record.offset < 3
        first = await world.process(one, group, topic)
        second = await world.process(two, group, topic)
        await until(lambda: len(one.owned) == len(two.owned) == 1, first, second)
        for partition in range(2):
            await write(world, topic, 10, partition)
        mine = next(iter(one.owned)).partition
        await until(lambda: len(one.in_flight) == 7, first, second)
        await committed(world, group, topic, lambda at: mine in at and at[mine].offset == 3)
        await first.kill()
        await committed(world, group, topic, lambda at: len(at) == 2 and all(each.offset == 10 for each in at.values()))
        assert [offset for partition, offset in two.delivered if partition == mine] == list(range(3, 10))
        await second.stop()
