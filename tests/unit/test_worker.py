"""The worker: one call, one attempt, one terminal result, and done only when they are in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fairlane.agents.effects import source_of
from fairlane.errors import FairlaneError, Fatal, Poison, Retry
from fairlane.ports import Outgoing, Record
from fairlane.schemas.attempt import AttemptStatus
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.codec import decode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision, DecisionKind
from fairlane.schemas.errors import ErrorCode
from fairlane.schemas.headers import SLOT, SOURCE, TICKET, TRACEPARENT, header
from fairlane.schemas.result import Cost, Status, Usage
from tests.unit.worker_doubles import INBOX, NAMES, START_MS, TRACE, USAGE, World, completion, failure

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def world() -> World:
    return World()


async def test_an_answer_becomes_one_attempt_and_one_result(world: World) -> None:
    await world.assign()
    await world.run(world.dispatch())
    (result,), (attempt,) = world.results(), world.attempts()
    assert (result.status, result.response, result.error) == (Status.SUCCEEDED, world_response(), None)
    assert (result.usage, result.attempts, result.labels) == (USAGE, 1, {"project": "search"})
    assert result.cost == attempt.cost == Cost(nano_usd=13_500, price_id="sim-small@2026-11-01")
    assert (attempt.status, attempt.attempt_id) == (AttemptStatus.SUCCEEDED, "acme/r-1/1")
    assert (attempt.worker, attempt.http_status, attempt.provider_request_id) == ("worker-1", 200, "p-1")
    assert world.done == [0]
    assert world.failures == []


def world_response() -> dict[str, Any]:
    return dict(completion().response)


async def test_times_add_up_to_the_whole(world: World) -> None:
    await world.assign()
    await world.run(world.dispatch())
    timings = world.results()[0].timings
    assert (timings.queue_ms, timings.model_ms) == (1_000.0, 200.0)
    assert timings.added_ms == pytest.approx(500.0)
    assert timings.dispatched_at == timestamp_from_ms(START_MS)
    assert timings.completed_at == timestamp_from_ms(START_MS + 200)


async def test_a_result_names_its_slot_its_source_and_its_trace(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    await world.run(record)
    (written,) = world.log.records(NAMES.results)
    assert written.key == b"acme/r-1"
    assert header(written.headers, SLOT) == b"sim/3/10/20"
    assert header(written.headers, SOURCE) == source_of(record) == b"t.inbox.sim/3/0"
    assert header(written.headers, TRACEPARENT) == TRACE
    assert header(written.headers, "ce_type") == b"fairlane.result.v1"


async def test_a_record_is_done_only_when_everything_about_it_is_acknowledged(world: World) -> None:
    await world.assign()
    world.publisher.hold()
    await world.run(world.dispatch())
    assert len(world.provider.calls) == 1
    assert world.done == []
    world.publisher.release()
    await world.settle()
    assert len(world.results()) == len(world.attempts()) == 1
    assert world.done == [0]


async def test_records_finish_in_any_order(world: World) -> None:
    await world.assign()
    gate = world.block()
    slow = world.dispatch("slow")
    await world.run(slow)
    world.answer_with(completion())
    await world.run(world.dispatch("quick"))
    assert world.done == [1]
    gate.set()
    await world.settle()
    assert world.done == [1, 0]


class TestTheCall:
    @pytest.mark.parametrize(
        ("body", "sent"),
        [
            ({}, {"max_tokens": 100}),
            ({"n": 3}, {"n": 3, "max_tokens": 33}),
            ({"max_tokens": 7}, {"max_tokens": 7}),
            ({"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
            ({"max_completion_tokens": None}, {"max_completion_tokens": 100}),
            ({"max_tokens": None}, {"max_tokens": 100}),
            ({"stream": True, "stream_options": {"include_usage": False}}, {"max_tokens": 100}),
        ],
    )
    async def test_the_body_has_the_providers_name_and_always_a_limit(
        self, world: World, body: dict[str, Any], sent: dict[str, Any]
    ) -> None:
        await world.assign()
        await world.run(world.dispatch(body={"model": "auto", "messages": MESSAGES, **body}))
        assert world.provider.calls[0].body == {"model": "sim-small-2026", "messages": MESSAGES, **sent}

    async def test_the_call_carries_the_request_and_the_trace(self, world: World) -> None:
        await world.assign()
        await world.run(world.dispatch())
        (call,) = world.provider.calls
        assert (call.request_id, call.traceparent, call.base_url) == ("acme/r-1", TRACE.decode(), "http://sim/v1")

    @pytest.mark.parametrize(("deadline_in_ms", "timeout_s"), [(600_000, 60.0), (5_000, 5.0)])
    async def test_it_may_take_until_the_deadline_and_no_longer_than_the_provider_allows(
        self, world: World, deadline_in_ms: int, timeout_s: float
    ) -> None:
        await world.assign()
        await world.run(world.dispatch(deadline=timestamp_from_ms(START_MS + deadline_in_ms)))
        assert world.provider.calls[0].timeout_s == timeout_s

    async def test_past_the_deadline_no_call_is_made(self, world: World) -> None:
        await world.assign()
        await world.run(world.dispatch(deadline=timestamp_from_ms(START_MS)))
        (result,) = world.results()
        assert result.status is Status.EXPIRED
        assert result.error is not None
        assert result.error.code is ErrorCode.DEADLINE_EXCEEDED
        assert (result.attempts, result.cost.nano_usd) == (0, 0)
        assert world.provider.calls == []
        assert header(world.log.records(NAMES.results)[0].headers, SLOT) == b"sim/3/0/0"
        (decision,) = [decode(Decision, record.value or b"") for record in world.log.records(NAMES.decisions)]
        assert (decision.kind, decision.config_version) == (DecisionKind.EXPIRED, "t9-c9")

    @pytest.mark.parametrize(
        ("timeout_ms", "status", "code"),
        [(60_000, Status.EXPIRED, ErrorCode.DEADLINE_EXCEEDED), (900, Status.FAILED, ErrorCode.PROVIDER_TIMEOUT)],
    )
    async def test_a_call_cut_by_the_deadline_expires_and_one_cut_by_the_provider_limit_fails(
        self, world: World, timeout_ms: int, status: Status, code: ErrorCode
    ) -> None:
        await world.assign()
        world.answer_with(failure(ErrorCode.PROVIDER_TIMEOUT))
        await world.run(world.dispatch(deadline=timestamp_from_ms(START_MS + 1_000), timeout_ms=timeout_ms))
        (result,), (attempt,) = world.results(), world.attempts()
        assert result.error is not None
        assert attempt.error is not None
        assert (result.status, result.error.code, result.attempts) == (status, code, 1)
        assert attempt.error.code is ErrorCode.PROVIDER_TIMEOUT

    async def test_a_provider_of_an_unknown_kind_is_an_error_of_ours(self, world: World) -> None:
        await world.assign()
        await world.run(world.dispatch(kind="telepathy"))
        (result,) = world.results()
        assert result.error is not None
        assert (result.error.code, result.attempts) == (ErrorCode.INTERNAL, 0)
        assert "telepathy" in result.error.message
        assert world.done == [0]

    async def test_a_bug_in_an_adapter_fails_one_request_only(self, world: World) -> None:
        await world.assign()
        world.answer_with(ZeroDivisionError("secret"))
        await world.run(world.dispatch())
        (result,) = world.results()
        assert result.error is not None
        assert result.error.code is ErrorCode.INTERNAL
        assert "secret" not in result.error.model_dump_json()
        assert (world.done, world.failures) == ([0], [])


class TestMoney:
    async def test_a_failed_call_costs_nothing(self, world: World) -> None:
        await world.assign()
        world.answer_with(failure(ErrorCode.PROVIDER_UNAVAILABLE, http_status=503))
        await world.run(world.dispatch())
        (result,), (attempt,) = world.results(), world.attempts()
        assert result.error is not None
        assert (result.status, result.error.code) == (Status.FAILED, ErrorCode.PROVIDER_UNAVAILABLE)
        assert (result.cost.nano_usd, attempt.cost.nano_usd, attempt.http_status) == (0, 0, 503)

    async def test_a_stream_cut_after_words_costs_the_words(self, world: World) -> None:
        await world.assign()
        world.answer_with(failure(ErrorCode.PROVIDER_UNAVAILABLE, billed=USAGE, usage_estimated=True))
        await world.run(world.dispatch(stream=True))
        (result,), (attempt,) = world.results(), world.attempts()
        assert (result.status, result.usage, result.cost.nano_usd) == (Status.FAILED, USAGE, 13_500)
        assert attempt.usage_estimated

    async def test_no_usage_costs_more_than_the_hold(self, world: World) -> None:
        await world.assign()
        world.answer_with(completion(Usage(input_tokens=10, output_tokens=5_000)))
        await world.run(world.dispatch(hold_nano_usd=13_500))
        (result,), (attempt,) = world.results(), world.attempts()
        assert result.cost.nano_usd == attempt.cost.nano_usd == 13_500
        assert result.usage.output_tokens == 5_000
        assert world.metric('worker_cost_above_hold_total{model="sim-small",provider="sim"}') == 1

    async def test_estimated_usage_is_told_and_counted(self, world: World) -> None:
        await world.assign()
        world.answer_with(completion(usage_estimated=True))
        await world.run(world.dispatch())
        assert world.attempts()[0].usage_estimated
        assert world.metric('worker_usage_estimated_total{model="sim-small",provider="sim"}') == 1


class TestStreams:
    async def test_pieces_are_published_in_order_and_the_result_holds_the_whole(self, world: World) -> None:
        await world.assign()
        world.provider.deltas = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}, {"index": 1, "delta": "odd"}]},
            {"choices": [{"index": 0, "delta": {"content": "hi"}}]},
        ]
        await world.run(world.dispatch(stream=True, body={"model": "auto", "messages": MESSAGES, "max_tokens": 5}))
        chunks = [decode(Chunk, record.value or b"") for record in world.log.records(NAMES.chunks)]
        assert [(chunk.sequence, chunk.last, chunk.attempt) for chunk in chunks] == [
            (0, False, 1), (1, False, 1), (2, True, 1),
        ]  # fmt: skip
        assert [chunk.delta for chunk in chunks] == [*world.provider.deltas, {}]
        (result,) = world.results()
        assert result.response == world_response()
        assert result.timings.first_token_at == timestamp_from_ms(START_MS)
        assert world.provider.calls[0].body["stream_options"] == {"include_usage": True}
        assert world.provider.calls[0].body["stream"] is True

    async def test_a_piece_the_log_does_not_take_costs_neither_the_stream_nor_the_result(self, world: World) -> None:
        await world.assign()
        world.provider.deltas = [{"choices": []}] * 3
        world.publisher.refuse = lambda record: Retry("no answer") if record.topic == NAMES.chunks else None
        await world.run(world.dispatch(stream=True))
        assert world.results()[0].status is Status.SUCCEEDED
        assert world.done == [0]

    async def test_a_stream_faster_than_the_log_is_slowed_down(self, world: World) -> None:
        await world.assign()
        world.provider.deltas = [{"choices": []}] * 500
        world.publisher.hold()
        await world.run(world.dispatch(stream=True))
        world.publisher.release()
        assert 0 < len(world.log.records(NAMES.chunks)) < 100
        for _ in range(20):
            await world.settle()
        assert len(world.log.records(NAMES.chunks)) == 501
        assert world.done == [0]


class TestFencing:
    async def test_a_marker_is_done_at_once_and_voids_what_an_older_dispatcher_writes_after_it(
        self, world: World
    ) -> None:
        await world.assign()
        records = [world.dispatch("kept", epoch=5), world.mark_epoch(6), world.dispatch("void", epoch=5)]
        await world.run(*records, world.dispatch("new", epoch=6))
        assert world.answered() == ["kept", "new"]
        assert sorted(world.done) == [0, 1, 2, 3]
        assert world.metric('worker_void_records_total{pool="sim"}') == 1

    async def test_the_epoch_survives_a_restart_with_the_commit(self, world: World) -> None:
        await world.assign()
        await world.run(world.mark_epoch(6))
        note = world.worker.note(INBOX)
        world.worker = world.new_worker()
        await world.assign(offset=1, note=note)
        await world.run(world.dispatch("void", epoch=5))
        assert world.results() == []
        assert world.done == [0, 1]

    async def test_a_record_before_a_committed_marker_is_not_void_when_it_comes_again(self, world: World) -> None:
        await world.assign()
        world.block()
        old, marker = world.dispatch("old", epoch=5), world.mark_epoch(6)
        await world.run(old, marker)
        note = world.worker.note(INBOX)
        world.worker = world.new_worker()
        world.answer_with(completion())
        await world.assign(offset=0, finished=frozenset({1}), note=note)
        await world.run(old, world.dispatch("void", epoch=5))
        assert world.answered() == ["old"]

    async def test_a_record_without_an_epoch_is_called_for_by_nobody(self, world: World) -> None:
        await world.assign()
        record = world.dispatch()
        bare = Record(*INBOX, 0, START_MS, record.key, record.value, record.headers[:2])
        await world.run(bare)
        assert [(result.status, result.attempts) for result in world.results()] == [("failed", 0)]


class TestBounds:
    async def test_taking_records_waits_while_all_places_are_taken(self) -> None:
        world = World(in_flight_max=2)
        await world.assign()
        gate = world.block()
        taking = asyncio.create_task(world.process(*[world.dispatch(f"r-{i}") for i in range(3)]))
        await world.settle()
        assert len(world.provider.calls) == 2
        assert not taking.done()
        gate.set()
        await taking
        await world.settle()
        assert len(world.provider.calls) == 3
        assert world.metric("worker_full_total") == 1

    async def test_what_was_revoked_while_waiting_is_not_begun(self) -> None:
        world = World(in_flight_max=1)
        await world.assign()
        world.block()
        taking = asyncio.create_task(world.process(*[world.dispatch(f"r-{i}") for i in range(2)]))
        await world.settle()
        await world.worker.revoked(frozenset({INBOX}))
        await taking
        assert len(world.provider.calls) == 1

    async def test_a_record_delivered_again_while_in_flight_is_called_once_and_done_by_the_new_way(
        self, world: World
    ) -> None:
        await world.assign()
        gate = world.block()
        record = world.dispatch()
        await world.run(record)
        later: list[Record] = []
        await world.worker.process([record], later.append)
        gate.set()
        await world.settle()
        assert len(world.provider.calls) == len(world.results()) == 1
        assert (world.done, later) == ([], [record])


class TestBadRecords:
    async def test_a_job_that_cannot_be_read_fails_by_its_ticket_and_frees_its_slot(self, world: World) -> None:
        await world.assign()
        record = world.dispatch()
        await world.run(Record(*INBOX, 0, START_MS, record.key, b'{"secret": 1}', record.headers))
        (result,) = world.results()
        assert (result.request_id, result.status) == ("r-1", Status.FAILED)
        assert result.error is not None
        assert result.error.code is ErrorCode.INTERNAL
        assert header(world.log.records(NAMES.results)[0].headers, SLOT) == b"sim/3/0/0"
        assert "secret" not in result.model_dump_json()
        assert world.done == [0]

    async def test_a_record_that_names_no_request_becomes_a_dead_letter(self, world: World) -> None:
        await world.assign()
        await world.run(Record(*INBOX, 0, START_MS, b"k", b"{", ((TICKET, b"{"),)))
        (letter,) = [decode(DeadLetter, record.value or b"") for record in world.log.records(NAMES.dead_letters)]
        assert (letter.dead_letter_id, letter.payload_bytes) == ("t.inbox.sim/3/0", 1)
        assert world.done == [0]


class TestWriting:
    async def test_an_unacknowledged_result_that_is_in_the_log_is_not_written_again(self, world: World) -> None:
        await world.assign()
        failures: list[FairlaneError] = [Retry("no answer")]
        world.publisher.forget = lambda record: failures.pop() if record.topic == NAMES.results and failures else None
        await world.run(world.dispatch())
        await world.worker.drain()
        assert len(world.results()) == len(world.attempts()) == 1
        assert world.done == [0]

    async def test_an_unacknowledged_result_that_is_not_in_the_log_is_written_again(self, world: World) -> None:
        await world.assign()
        failures: list[FairlaneError] = [Retry("no answer"), Retry("no answer")]
        world.publisher.refuse = lambda record: failures.pop() if record.topic == NAMES.results and failures else None
        await world.run(world.dispatch())
        await world.worker.drain()
        assert len(world.results()) == len(world.attempts()) == 1
        assert (world.done, failures) == ([0], [])

    async def test_an_answer_no_record_can_hold_fails_and_is_billed(self, world: World) -> None:
        await world.assign()

        def too_large(record: Outgoing) -> Poison | None:
            holds_answer = record.topic == NAMES.results and b'"choices"' in (record.value or b"")
            return Poison("too large") if holds_answer else None

        world.publisher.refuse = too_large
        await world.run(world.dispatch())
        (result,) = world.results()
        assert result.error is not None
        assert (result.error.code, result.cost.nano_usd) == (ErrorCode.INVALID_RESPONSE, 13_500)
        assert len(world.attempts()) == 1
        assert world.done == [0]

    @pytest.mark.parametrize("broken", [Fatal("fenced"), ValueError("bug")])
    async def test_a_publisher_that_cannot_go_on_stops_the_process_and_leaves_the_record(
        self, world: World, broken: Any
    ) -> None:
        await world.assign()
        world.publisher.refuse = lambda _: broken
        await world.run(world.dispatch())
        assert [type(stop) for stop in world.failures] == [Fatal]
        assert world.done == []
        await world.worker.drain()
        assert world.worker.note(INBOX) == "0"
