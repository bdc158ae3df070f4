"""The worker across owners: what a takeover repeats, what it never repeats, and what is told about it."""

from __future__ import annotations

import asyncio

import pytest

from fairlane.errors import Fatal
from fairlane.ports import Completion, ProviderError, Record
from fairlane.schemas.attempt import Attempt, AttemptStatus
from fairlane.schemas.codec import decode
from fairlane.schemas.decision import Decision, DecisionKind
from fairlane.schemas.errors import ErrorCode
from fairlane.schemas.result import Status
from fairlane.schemas.topics import ATTEMPTS
from tests.unit.worker_doubles import INBOX, NAMES, USAGE, World, completion, failure


@pytest.fixture
def world() -> World:
    return World()


def told(attempts: list[Attempt]) -> list[tuple[int, AttemptStatus]]:
    return [(attempt.attempt, attempt.status) for attempt in attempts]


async def crash_in_call(world: World, *records: Record) -> str:
    """A worker takes the records and dies while the provider is answering; returns its last note."""
    world.block()
    await world.run(*records)
    note = world.worker.note(INBOX)
    world.worker = world.new_worker()
    world.answer_with(completion())
    return note


async def end_without_result(world: World, record: Record) -> None:
    """A worker calls and dies between its attempt, which stands in the log, and its result, which does not."""
    world.publisher.refuse = lambda outgoing: Fatal("fenced") if outgoing.topic == NAMES.results else None
    await world.run(record)
    world.publisher.refuse = lambda _: None
    world.worker = world.new_worker()


async def test_a_call_that_may_have_been_made_is_told_and_made_again(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    note = await crash_in_call(world, record)
    await world.assign(note=note)
    await world.run(record)
    assert told(world.attempts()) == [(1, AttemptStatus.ABANDONED), (2, AttemptStatus.SUCCEEDED)]
    (result,) = world.results()
    assert (result.status, result.attempts) == (Status.SUCCEEDED, 2)
    assert result.cost.nano_usd == 13_500
    (decision,) = [decode(Decision, entry.value or b"") for entry in world.log.records(NAMES.decisions)]
    assert (decision.kind, decision.attributes["next_attempt"]) == (DecisionKind.REDELIVERED, "2")


async def test_every_further_crash_counts_one_more_call(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    for _ in range(3):
        note = await crash_in_call(world, record)
        await world.assign(note=note)
    await world.run(record)
    assert told(world.attempts()) == [
        (1, AttemptStatus.ABANDONED),
        (2, AttemptStatus.ABANDONED),
        (3, AttemptStatus.ABANDONED),
        (4, AttemptStatus.SUCCEEDED),
    ]
    assert len({attempt.attempt_id for attempt in world.attempts()}) == 4


async def test_a_result_in_the_log_ends_its_record_without_a_call(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    await world.run(record)
    world.worker, calls = world.new_worker(), len(world.provider.calls)
    # The predecessor died before it could commit.
    await world.assign(note="5")
    await world.run(record)
    assert len(world.results()) == 1
    assert len(world.provider.calls) == calls
    assert world.done == [0, 0]
    assert world.metric('worker_redelivered_total{outcome="answered",pool="sim"}') == 1


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (completion(), AttemptStatus.SUCCEEDED),
        (failure(ErrorCode.PROVIDER_REFUSED, billed=USAGE, usage_estimated=True), AttemptStatus.FAILED),
    ],
)
async def test_the_attempt_behind_a_result_is_told_by_the_successor_if_the_worker_died_before_it_stood_in_the_log(
    world: World, outcome: Completion | ProviderError, status: AttemptStatus
) -> None:
    world.answer_with(outcome)
    await world.assign()
    record = world.dispatch()
    await world.run(record)
    (told_before,) = world.attempts()
    for partition in range(ATTEMPTS.partitions):
        world.log.trim(NAMES.attempts, partition, 1)
    world.worker, calls = world.new_worker(), len(world.provider.calls)
    await world.assign(note="5")
    await world.run(record)
    (attempt,) = world.attempts()
    assert (attempt.attempt_id, attempt.status) == (told_before.attempt_id, status)
    assert (attempt.usage, attempt.cost, attempt.model_ms) == (
        told_before.usage,
        told_before.cost,
        told_before.model_ms,
    )
    assert len(world.results()) == 1
    assert len(world.provider.calls) == calls
    assert world.done == [0, 0]


async def test_an_attempt_in_the_log_without_a_result_is_not_told_again(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    await end_without_result(world, record)
    await world.assign(note="5")
    await world.run(record)
    assert told(world.attempts()) == [(1, AttemptStatus.SUCCEEDED), (2, AttemptStatus.SUCCEEDED)]
    assert world.results()[0].attempts == 2


async def test_a_call_begun_after_an_attempt_without_a_result_is_told_by_the_next_owner(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    await end_without_result(world, record)
    for _ in range(2):
        await world.assign(note="5")
        await crash_in_call(world, record)
    await world.assign(note="5")
    await world.run(record)
    assert told(world.attempts()) == [
        (1, AttemptStatus.SUCCEEDED),
        (2, AttemptStatus.ABANDONED),
        (3, AttemptStatus.ABANDONED),
        (4, AttemptStatus.SUCCEEDED),
    ]
    assert len(world.provider.calls) == 4


async def test_an_announcement_that_stands_without_its_attempt_hides_no_call(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    await end_without_result(world, record)
    await world.assign(note="5")
    await crash_in_call(world, record)
    # The next owner tells of call 2 and announces call 3; only the announcement gets into the log.
    world.publisher.refuse = lambda outgoing: Fatal("fenced") if outgoing.topic == NAMES.attempts else None
    await world.assign(note="5")
    await world.run(record)
    world.publisher.refuse = lambda _: None
    world.worker = world.new_worker()
    await world.assign(note="5")
    await world.run(record)
    assert len(world.provider.calls) == 3
    assert told(world.attempts()) == [
        (1, AttemptStatus.SUCCEEDED),
        (2, AttemptStatus.ABANDONED),
        (3, AttemptStatus.SUCCEEDED),
    ]


async def test_a_crash_before_the_first_commit_is_seen_by_what_was_written(world: World) -> None:
    await world.assign()
    first, second = world.dispatch("r-1"), world.dispatch("r-2")
    await world.run(first)
    await crash_in_call(world, second)
    await world.assign(note="")
    await world.run(first, second)
    assert world.answered() == ["r-1", "r-2"]
    assert told(world.attempts("r-1")) == [(1, AttemptStatus.SUCCEEDED)]
    assert told(world.attempts("r-2")) == [(1, AttemptStatus.ABANDONED), (2, AttemptStatus.SUCCEEDED)]


async def test_the_first_owner_ever_has_no_predecessor_to_tell_about(world: World) -> None:
    record = world.dispatch()
    await world.assign(note="")
    await world.run(record)
    assert told(world.attempts()) == [(1, AttemptStatus.SUCCEEDED)]


async def test_after_a_clean_stop_nothing_is_suspected(world: World) -> None:
    await world.assign()
    await world.run(world.dispatch("r-1"))
    await world.worker.drain()
    note = world.worker.note(INBOX)
    waiting = world.dispatch("r-2")
    world.worker = world.new_worker()
    await world.assign(offset=1, note=note)
    await world.run(waiting)
    assert told(world.attempts()) == [(1, AttemptStatus.SUCCEEDED), (1, AttemptStatus.SUCCEEDED)]


async def test_a_stop_that_had_to_cut_a_call_is_not_clean(world: World) -> None:
    await world.assign()
    world.block()
    record = world.dispatch()
    await world.run(record)
    draining = asyncio.create_task(world.worker.drain())
    await world.settle()
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    note = world.worker.note(INBOX)
    assert (world.done, world.results()) == ([], [])
    world.worker = world.new_worker()
    world.answer_with(completion())
    await world.assign(note=note)
    await world.run(record)
    assert told(world.attempts()) == [(1, AttemptStatus.ABANDONED), (2, AttemptStatus.SUCCEEDED)]


async def test_a_stop_before_what_was_inherited_came_again_is_not_clean(world: World) -> None:
    await world.assign()
    world.block()
    begun, answered = world.dispatch("r-1"), world.dispatch("r-2")
    await world.run(begun)
    note = world.worker.note(INBOX)
    world.worker = world.new_worker()
    world.answer_with(completion())
    await world.assign(note=note)
    await world.run(answered)
    note = world.worker.note(INBOX)
    # It owned the partition for a moment only: neither record was delivered to it.
    world.worker = world.new_worker()
    await world.assign(note=note)
    await world.worker.drain()
    note = world.worker.note(INBOX)
    world.worker = world.new_worker()
    await world.assign(note=note)
    await world.run(begun)
    await world.run(answered)
    assert len(world.results()) == 2
    assert told(world.attempts()) == [(1, AttemptStatus.ABANDONED), (2, AttemptStatus.SUCCEEDED)] * 2


async def test_draining_waits_for_calls_in_flight_and_takes_nothing_more(world: World) -> None:
    await world.assign()
    gate = world.block()
    await world.run(world.dispatch("r-1"))
    draining = asyncio.create_task(world.worker.drain())
    await world.settle()
    await world.run(world.dispatch("r-2"))
    assert not draining.done()
    gate.set()
    await draining
    assert world.answered() == ["r-1"]
    assert world.done == [0]


async def test_a_finished_record_beyond_the_commit_is_not_suspected(world: World) -> None:
    await world.assign()
    records = [world.dispatch("r-1"), world.dispatch("r-2")]
    await world.run(records[1])
    note = await crash_in_call(world, records[0])
    await world.assign(finished=frozenset({1}), note=note)
    await world.run(records[0])
    assert world.answered() == ["r-1", "r-2"]


async def test_a_revoked_partition_ends_its_calls_without_a_word(world: World) -> None:
    await world.assign()
    gate = world.block()
    await world.run(world.dispatch())
    await world.worker.revoked(frozenset({INBOX}))
    gate.set()
    await world.settle()
    assert (world.results(), world.attempts(), world.done) == ([], [], [])
    assert world.metric('worker_abandoned_total{pool="sim"}') == 1
    await world.worker.drain()


async def test_a_partition_that_comes_back_later_is_taken_over_like_any_other(world: World) -> None:
    await world.assign()
    world.block()
    record = world.dispatch()
    await world.run(record)
    note = world.worker.note(INBOX)
    await world.worker.revoked(frozenset({INBOX}))
    world.answer_with(completion())
    await world.assign(note=note)
    await world.run(record)
    assert told(world.attempts()) == [(1, AttemptStatus.ABANDONED), (2, AttemptStatus.SUCCEEDED)]
    assert len(world.results()) == 1


async def answered_without_lease(world: World) -> None:
    """A worker whose lease ended while the provider was answering."""
    await world.assign()
    answer = world.block()
    await world.run(world.dispatch())
    world.lease = False
    answer.set()
    await world.settle()


async def test_without_a_certain_lease_a_result_waits_until_it_is_certain_again(world: World) -> None:
    await answered_without_lease(world)
    assert len(world.provider.calls) == 1
    assert world.results() == []
    assert world.metric("worker_results_held_total") == 1
    world.lease = True
    await world.worker.drain()
    assert len(world.results()) == 1
    assert world.done == [0]


async def test_a_result_that_waits_for_a_lease_is_dropped_with_its_partition(world: World) -> None:
    await answered_without_lease(world)
    await world.worker.revoked(frozenset({INBOX}))
    world.lease = True
    await world.worker.drain()
    assert (world.results(), world.attempts(), world.done) == ([], [], [])


async def test_a_worker_that_wakes_up_past_its_lease_calls_nobody(world: World) -> None:
    await world.assign()
    world.lease = False
    await world.run(world.dispatch())
    assert world.provider.calls == []
    world.lease = True
    await world.worker.drain()
    assert len(world.provider.calls) == 1
    assert [result.status for result in world.results()] == [Status.SUCCEEDED]


async def test_a_call_that_waits_for_a_lease_is_dropped_with_its_partition(world: World) -> None:
    await world.assign()
    world.lease = False
    await world.run(world.dispatch())
    await world.worker.revoked(frozenset({INBOX}))
    world.lease = True
    await world.worker.drain()
    assert world.provider.calls == []
    assert world.done == []
