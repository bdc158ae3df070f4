"""What an engine does with what a stage raises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from fairlane.clock import SystemClock
from fairlane.errors import Fatal, Poison, Retry
from fairlane.ports import Done, OwnershipLost, Record, Restored, TopicPartition
from fairlane.streams.engines.delivery import TRIES, Delivery
from fairlane.telemetry import NO_METRICS

Process = Callable[[Sequence[Record], Done], Awaitable[None]]


def record(offset: int) -> Record:
    return Record("t", 0, offset, 0, None, b"")


def offsets(batch: Sequence[Record]) -> list[int]:
    return [each.offset for each in batch]


class Scripted:
    """A stage whose ``process`` is the test's; remembers the calls."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.calls: list[list[int]] = []
        self.poisonings: list[tuple[int, str]] = []
        self.poison_failures: list[Exception] = []

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None: ...

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        self.calls.append(offsets(batch))
        await self._process(batch, done)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        if self.poison_failures:
            raise self.poison_failures.pop(0)
        self.poisonings.append((record.offset, type(failure).__name__))

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None: ...

    async def drain(self) -> None: ...

    def note(self, partition: TopicPartition) -> str:
        return ""


def delivery_to(process: Process) -> tuple[Scripted, Delivery, SimpleNamespace]:
    stage = Scripted(process)
    state = SimpleNamespace(done=[], owned=True)

    def is_unfinished(each: Record) -> bool:
        return state.owned and each.offset not in state.done

    delivery = Delivery(
        stage,
        stage_name="gate",
        clock=SystemClock(),
        metrics=NO_METRICS,
        done=lambda each: state.done.append(each.offset),
        is_unfinished=is_unfinished,
    )
    return stage, delivery, state


def failing(times: int, failure: Callable[[], Exception], *, at: int | None = None) -> Process:
    """Marks what comes before offset ``at`` done, then raises; after ``times`` failures all is well."""
    left = times

    async def process(batch: Sequence[Record], done: Done) -> None:
        nonlocal left
        for each in batch:
            if left and (at is None or each.offset == at):
                left -= 1
                raise failure()
            done(each)

    return process


async def test_retry_delivers_again_what_is_not_done_and_nothing_else() -> None:
    stage, delivery, state = delivery_to(failing(2, lambda: Retry("away", after=0), at=1))
    await delivery.process([record(0), record(1), record(2)])
    assert stage.calls == [[0, 1, 2], [1, 2], [1, 2]]
    assert state.done == [0, 1, 2]


async def test_retry_is_no_failure_of_the_record_however_often_it_comes() -> None:
    stage, delivery, _ = delivery_to(failing(3 * TRIES, lambda: Retry("away", after=0)))
    await delivery.process([record(0)])
    assert stage.poisonings == []


async def test_what_is_done_later_is_not_delivered_again_by_a_batch_that_was_taken() -> None:
    async def takes(batch: Sequence[Record], done: Done) -> None: ...

    stage, delivery, state = delivery_to(takes)
    await delivery.process([record(0), record(1)])
    assert stage.calls == [[0, 1]]
    assert state.done == []


async def test_fatal_leaves_at_once() -> None:
    stage, delivery, state = delivery_to(failing(1, lambda: Fatal("broken")))
    with pytest.raises(Fatal, match="broken"):
        await delivery.process([record(0)])
    assert stage.calls == [[0]]
    assert state.done == []


async def test_lost_ownership_inside_a_stage_is_never_taken_for_a_bad_record() -> None:
    stage, delivery, _ = delivery_to(failing(1, lambda: OwnershipLost("fenced")))
    with pytest.raises(Fatal, match="fenced"):
        await delivery.process([record(0)])
    assert stage.poisonings == []


async def test_a_bug_costs_only_its_record_and_only_after_every_try() -> None:
    async def process(batch: Sequence[Record], done: Done) -> None:
        for each in batch:
            if each.offset == 1:
                raise KeyError("bug")
            done(each)

    stage, delivery, state = delivery_to(process)
    await delivery.process([record(0), record(1), record(2)])
    assert stage.calls == [[0, 1, 2], *[[1]] * TRIES, [2]]
    assert stage.poisonings == [(1, "KeyError")]
    assert state.done == [0, 1, 2]


async def test_a_bug_that_goes_away_poisons_nothing() -> None:
    stage, delivery, state = delivery_to(failing(TRIES, lambda: KeyError("bug"), at=1))
    await delivery.process([record(0), record(1)])
    assert stage.poisonings == []
    assert state.done == [0, 1]


async def test_poison_needs_no_second_try() -> None:
    stage, delivery, _ = delivery_to(failing(9, lambda: Poison("never"), at=1))
    await delivery.process([record(0), record(1)])
    assert stage.calls == [[0, 1], [1]]
    assert stage.poisonings == [(1, "Poison")]


async def test_a_terminal_that_cannot_be_given_now_is_tried_again() -> None:
    stage, delivery, state = delivery_to(failing(9, lambda: Poison("never")))
    stage.poison_failures = [Retry("log is away", after=0), Retry("log is away", after=0)]
    await delivery.process([record(0)])
    assert stage.poisonings == [(0, "Poison")]
    assert state.done == [0]


async def test_a_terminal_that_can_never_be_given_stops_the_process_and_the_record_stays_unfinished() -> None:
    stage, delivery, state = delivery_to(failing(9, lambda: Poison("never")))
    stage.poison_failures = [KeyError("bug")]
    with pytest.raises(Fatal, match="gate"):
        await delivery.process([record(0)])
    assert state.done == []


async def test_a_future_cancelled_under_the_stage_is_a_bug_and_does_not_end_the_engine() -> None:
    async def process(batch: Sequence[Record], done: Done) -> None:
        if len(stage.calls) == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        for each in batch:
            done(each)

    stage, delivery, state = delivery_to(process)
    await delivery.process([record(0)])
    assert state.done == [0]


async def test_being_cancelled_ourselves_is_not_answered() -> None:
    entered = asyncio.Event()

    async def hangs(batch: Sequence[Record], done: Done) -> None:
        entered.set()
        await asyncio.Event().wait()

    stage, delivery, _ = delivery_to(hangs)
    task = asyncio.create_task(delivery.process([record(0)]))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.calls == [[0]]


async def test_closing_cuts_the_call_short_and_ends_the_wait_for_another_try() -> None:
    entered = asyncio.Event()

    async def hangs(batch: Sequence[Record], done: Done) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def away(batch: Sequence[Record], done: Done) -> None:
        entered.set()
        raise Retry("away", after=3600)

    for process in (hangs, away):
        entered.clear()
        stage, delivery, state = delivery_to(process)
        task = asyncio.create_task(delivery.process([record(0)]))
        await entered.wait()
        await delivery.close(0)
        await task
        assert stage.calls == [[0]]
        assert state.done == []


async def test_a_rebalance_that_takes_partitions_cuts_the_call_and_the_rest_is_delivered_again() -> None:
    entered = asyncio.Event()

    async def process(batch: Sequence[Record], done: Done) -> None:
        entered.set()
        if len(stage.calls) == 1:
            await asyncio.Event().wait()
        for each in batch:
            done(each)

    stage, delivery, state = delivery_to(process)
    lost = {1}
    delivery_is_unfinished: Any = delivery
    delivery_is_unfinished._is_unfinished = lambda each: each.offset not in lost and each.offset not in state.done
    task = asyncio.create_task(delivery.process([record(0), record(1), record(2)]))
    await entered.wait()
    async with delivery.held(0):
        assert not task.done()
    await task
    assert stage.calls == [[0, 1, 2], [0, 2]]
    assert state.done == [0, 2]


async def test_a_rebalance_that_takes_nothing_waits_for_the_call_under_way() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def process(batch: Sequence[Record], done: Done) -> None:
        entered.set()
        await go_on.wait()
        done(batch[0])

    _, delivery, state = delivery_to(process)
    task = asyncio.create_task(delivery.process([record(0)]))
    await entered.wait()
    asyncio.get_running_loop().call_soon(go_on.set)
    async with delivery.held(None):
        assert state.done == [0]
    await task


async def test_taking_partitions_is_tried_again_until_it_succeeds_or_another_rebalance_overtakes_it() -> None:
    _, delivery, _ = delivery_to(failing(0, Exception))
    tries = 0

    async def take() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Retry("store is away", after=0)

    async with delivery.held(None):
        assert await delivery.until_taken(take, lambda: True)
    assert tries == 3
    tries = 0
    async with delivery.held(None):
        assert not await delivery.until_taken(take, lambda: tries < 1)
    assert tries == 1
