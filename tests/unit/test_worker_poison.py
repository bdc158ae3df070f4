"""Inbox records no worker can use: their terminal tells what is wrong with them, and nothing that stands in them."""

from __future__ import annotations

import pytest

from fairlane.ports import Outgoing, Record
from fairlane.schemas.base import timestamp_to_ms
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.errors import ErrorCode
from fairlane.schemas.headers import SLOT, TICKET, header
from fairlane.schemas.result import Status
from tests.unit.worker_doubles import INBOX, NAMES, World, job

SECRET = b"sk-secret"


@pytest.fixture
def world() -> World:
    return World()


def put(world: World, value: bytes, ticket: bytes | None) -> Record:
    headers = () if ticket is None else ((TICKET, ticket),)
    return world.log.append(Outgoing(INBOX.topic, b"k", value, headers, INBOX.partition))


@pytest.mark.parametrize("ticket", [None, SECRET, b'{"tenant_id":"acme"}'], ids=["none", "no JSON", "not whole"])
@pytest.mark.parametrize(
    ("value", "code", "field", "message"),
    [
        (SECRET, ErrorCode.INVALID_JSON, None, "the value is not valid JSON"),
        (b"", ErrorCode.INVALID_JSON, None, "the value is not valid JSON"),
        (b'"sk-secret"', ErrorCode.SCHEMA_VIOLATION, None, "must be an object"),
        (b'{"sk-secret":"sk-secret"}', ErrorCode.SCHEMA_VIOLATION, "request_id", "is required"),
    ],
)
async def test_a_dead_letter_names_the_rule_that_was_broken_and_the_field(
    world: World, ticket: bytes | None, value: bytes, code: ErrorCode, field: str | None, message: str
) -> None:
    await world.assign()
    await world.run(put(world, value, ticket))
    [record] = world.log.records(NAMES.dead_letters)
    letter = decode(DeadLetter, record.value or b"")
    assert (letter.stage, letter.error.code, letter.error.field) == ("worker", code, field)
    assert letter.error.message.startswith(message)
    assert letter.error.hint is not None
    assert "ACLs" in letter.error.hint
    assert SECRET not in (record.value or b"")
    assert world.done == [0]


async def test_a_job_without_a_ticket_is_answered_by_what_the_job_says_and_frees_its_slot(world: World) -> None:
    await world.assign()
    asked = job("r-1", world.clock.now_ms())
    record = put(world, encode(asked), None)
    world.clock.advance(5)
    await world.run(record)
    [result] = world.results()
    assert result.timings.received_at == asked.received_at
    assert result.timings.added_ms == world.clock.now_ms() - timestamp_to_ms(asked.received_at)
    assert (result.request_id, result.status, result.idempotency_key) == ("r-1", Status.FAILED, "r-1")
    assert result.error is not None
    assert result.error.code is ErrorCode.INTERNAL
    assert header(world.log.records(NAMES.results)[0].headers, SLOT) == b"sim/3/0/0"
    assert world.log.records(NAMES.dead_letters) == []


async def test_a_job_under_another_requests_ticket_is_not_called_for_and_frees_that_ones_slot(world: World) -> None:
    await world.assign()
    record = world.dispatch("r-1")
    foreign = job("r-2", world.clock.now_ms())
    other = encode(foreign.model_copy(update={"labels": {"team": "theirs"}}))
    await world.run(Record(*INBOX, record.offset, record.timestamp_ms, record.key, other, record.headers))
    [result] = world.results()
    assert (result.request_id, result.status, result.attempts) == ("r-1", Status.FAILED, 0)
    assert (result.idempotency_key, result.labels) == (None, {})


async def test_a_result_in_place_of_an_unreadable_job_says_what_is_wrong_with_the_job(world: World) -> None:
    await world.assign()
    record = world.dispatch()
    await world.run(Record(*INBOX, 0, record.timestamp_ms, record.key, b'{"sk-secret": 1}', record.headers))
    [result] = world.results()
    assert result.error is not None
    assert result.error.code is ErrorCode.INTERNAL
    assert "schema_violation" in result.error.message
    assert "request_id" in result.error.message
    assert SECRET.decode() not in result.model_dump_json()


async def test_a_record_that_comes_again_after_a_crash_gets_no_second_terminal(world: World) -> None:
    record = put(world, SECRET, None)
    for _ in range(2):
        world.worker = world.new_worker()
        await world.assign()
        await world.run(record)
    assert len(world.log.records(NAMES.dead_letters)) == 1
