"""Workers under the loop engine and the log in memory: deaths, handovers and newcomers in the middle of calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.clock import SystemClock
from fairlane.schemas.attempt import AttemptStatus
from fairlane.streams.engines.loop import LoopEngine
from fairlane.telemetry import NO_METRICS
from tests.unit.worker_doubles import INBOX, World, completion

SESSION_MS = 200


class Process:
    """One worker process: engine, consumer and stage."""

    def __init__(self, world: World, commit_interval_ms: int = 20) -> None:
        self.consumer = MemoryConsumer(world.log, "workers", [INBOX.topic], session_timeout_ms=SESSION_MS)
        self.engine = LoopEngine(
            self.consumer,
            world.new_worker(lease_ok=self.consumer.lease_ok),
            SystemClock(),
            NO_METRICS,
            stage_name="worker",
            batch_max_records=100,
            window_records=1_000,
            commit_interval_ms=commit_interval_ms,
            drain_timeout_ms=10_000,
        )
        self.stopping = asyncio.Event()
        self.running = asyncio.create_task(self.engine.run(self.stopping))

    async def kill(self) -> None:
        """What kill -9 looks like: silence, and nothing more is written."""
        self.consumer.vanish()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def stop(self) -> None:
        self.stopping.set()
        await self.running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a log has no event for every condition
            await asyncio.sleep(0.002)


def dispatch(world: World, numbers: range) -> None:
    for number in numbers:
        world.dispatch(f"r-{number}", partition=number % 8)


async def test_a_worker_that_dies_in_its_calls_loses_no_request_and_answers_none_twice() -> None:
    world = World()
    world.block()
    first = Process(world)
    await until(lambda: first.engine.ready)
    dispatch(world, range(20))
    await until(lambda: len(world.provider.calls) == 20)
    await first.kill()
    world.answer_with(completion())
    second = Process(world)
    await until(lambda: len(world.results()) >= 20)
    await second.stop()
    assert Counter(world.answered()) == Counter(f"r-{number}" for number in range(20))
    # Every call that was made is told: those of the dead as abandoned.
    statuses = Counter(attempt.status for attempt in world.attempts())
    assert statuses == {AttemptStatus.ABANDONED: 20, AttemptStatus.SUCCEEDED: 20}
    assert len(world.provider.calls) == 40
    assert len({attempt.attempt_id for attempt in world.attempts()}) == 40


async def test_a_worker_that_dies_before_its_first_regular_commit_leaves_a_sign_that_it_was_there() -> None:
    world = World()
    world.block()
    first = Process(world, commit_interval_ms=60_000)
    await until(lambda: first.engine.ready)
    dispatch(world, range(8))
    await until(lambda: len(world.provider.calls) == 8)
    await first.kill()
    world.answer_with(completion())
    second = Process(world)
    await until(lambda: len(world.results()) >= 8)
    await second.stop()
    statuses = Counter(attempt.status for attempt in world.attempts())
    assert statuses == {AttemptStatus.ABANDONED: 8, AttemptStatus.SUCCEEDED: 8}


async def test_a_worker_that_stops_hands_over_without_a_second_call() -> None:
    world = World()
    gate = world.block()
    first = Process(world)
    await until(lambda: first.engine.ready)
    dispatch(world, range(10))
    await until(lambda: len(world.provider.calls) == 10)
    stopping = asyncio.create_task(first.stop())
    dispatch(world, range(10, 20))
    gate.set()
    await stopping
    second = Process(world)
    await until(lambda: len(world.results()) >= 20)
    await second.stop()
    assert Counter(world.answered()) == Counter(f"r-{number}" for number in range(20))
    assert len(world.provider.calls) == 20
    assert {attempt.attempt for attempt in world.attempts()} == {1}


async def test_a_newcomer_takes_its_share_and_what_stays_is_not_called_again() -> None:
    world = World()
    gate = world.block()
    first = Process(world)
    await until(lambda: first.engine.ready)
    dispatch(world, range(16))
    await until(lambda: len(world.provider.calls) == 16)
    second = Process(world)
    # The newcomer repeats the calls of the partitions it was given, and of those only.
    await until(lambda: second.engine.ready and first.engine.ready and len(world.provider.calls) >= 24)
    gate.set()
    await until(lambda: len(world.results()) >= 16)
    await asyncio.gather(first.stop(), second.stop())
    assert Counter(world.answered()) == Counter(f"r-{number}" for number in range(16))
    assert len(world.provider.calls) == 24
    statuses = Counter(attempt.status for attempt in world.attempts())
    assert statuses == {AttemptStatus.ABANDONED: 8, AttemptStatus.SUCCEEDED: 16}
