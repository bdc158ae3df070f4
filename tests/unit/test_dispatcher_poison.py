"""Lane records the dispatcher cannot use: each gets one terminal, in the log before it is done, and harms no other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.agents.lane_records import LaneRecords
from fairlane.clock import SystemClock
from fairlane.errors import Fatal, Retry
from fairlane.policy.vtc import FairQueue, Waiting
from fairlane.ports import Outgoing, Record
from fairlane.schemas.codec import encode
from fairlane.schemas.command import Command
from fairlane.schemas.headers import IDENTITY, SOURCE, TICKET, header
from fairlane.streams.engines.delivery import Delivery
from fairlane.telemetry import NO_METRICS
from tests.stage_harness import NAMES, Feed, World, config, request
from tests.unit.test_dispatcher import LANES, bound, dispatching, eventually, finish, ids, job
from tests.unit.test_gate import REQUESTS, gate_of, settle_of

SECRET = b"sk-secret"
JUNK = [
    pytest.param(b"k", SECRET, (), "invalid_json", None, id="no JSON"),
    pytest.param(b"k", None, ((TICKET, SECRET),), "invalid_json", None, id="no value"),
    pytest.param(None, b'{"sk-secret": 1}', (), "schema_violation", "request_id", id="no key and no job"),
    pytest.param(b"k", b"[]", ((TICKET, b"{}"),), "schema_violation", None, id="no object"),
]


@pytest.fixture
def world() -> World:
    return World()


async def deliver(feed: Feed, *records: Record) -> None:
    """As an engine does, with what it makes of failures."""

    def is_unfinished(record: Record) -> bool:
        return (record.topic, record.partition, record.offset) not in feed.done

    delivery = Delivery(
        feed.stage,
        stage_name="dispatcher",
        clock=SystemClock(),
        metrics=NO_METRICS,
        done=feed._done,
        is_unfinished=is_unfinished,
    )
    async with asyncio.timeout(10):
        await delivery.process(records)
    await feed.settle()


def failing_push(monkeypatch: pytest.MonkeyPatch, key: bytes) -> None:
    """A bug of the dispatcher that one request meets."""
    push = FairQueue.push

    def bug(queue: FairQueue, waiting: Waiting) -> None:
        if waiting.key == key:
            raise ZeroDivisionError(SECRET.decode())
        push(queue, waiting)

    monkeypatch.setattr(FairQueue, "push", bug)


def told(world: World, topic: str) -> Sequence[dict[str, Any]]:
    rows = world.values(topic)
    assert SECRET.decode() not in str(rows)
    return rows


@pytest.mark.parametrize(("key", "value", "headers", "code", "field"), JUNK)
async def test_junk_in_a_lane_becomes_one_dead_letter_with_its_reason_and_stops_nobody(
    world: World,
    key: bytes | None,
    value: bytes | None,
    headers: tuple[tuple[str, bytes], ...],
    code: str,
    field: str | None,
) -> None:
    junk = world.log.append(Outgoing(LANES, key, value, headers, 0))
    genuine = world.log.append(job(world, "r-0"))
    async with dispatching(world, config()) as feed:
        await deliver(feed, junk, genuine)
        assert len(feed.done) == 2
    assert ids(bound(world)) == ["acme/r-0"]
    [letter] = told(world, NAMES.dead_letters)
    assert (letter["dead_letter_id"], letter["stage"]) == (f"{LANES}/0/0", "dispatcher")
    assert (letter["error"]["code"], letter["error"]["field"]) == (code, field)
    assert "ACLs" in letter["error"]["hint"]
    decisions = {row["kind"]: row["reason"]["code"] for row in told(world, NAMES.decisions)}
    assert decisions == {"dead_lettered": code, "dispatched": "slot_free"}
    assert world.values(NAMES.results) == []


async def test_an_admitted_request_on_which_the_dispatcher_fails_ends_and_its_hold_is_released(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryAdmissionStore()
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    world.put(REQUESTS, request("r-0"))
    await gate.step()
    assert (await store.usage(["acme"]))[0].held_nano_usd > 0
    [lane] = world.log.records(LANES)
    failing_push(monkeypatch, b"acme/r-0")
    async with dispatching(world, config(), store) as feed:
        await deliver(feed, lane)
        assert len(feed.done) == 1
    [result] = told(world, NAMES.results)
    assert (result["request_id"], result["status"], result["error"]["code"]) == ("r-0", "failed", "internal")
    [record] = world.log.records(NAMES.results)
    assert header(record.headers, SOURCE) == f"{LANES}/{lane.partition}/{lane.offset}".encode()
    assert header(record.headers, IDENTITY) == header(lane.headers, IDENTITY) is not None
    assert world.values(NAMES.dead_letters) == []
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    await settle.step()
    [usage] = await store.usage(["acme"])
    assert (usage.held_nano_usd, usage.undispatched, usage.in_flight, usage.spent_nano_usd) == (0, 0, 0, 0)


@pytest.mark.parametrize("ticket", [b"{", b"", None], ids=["broken", "empty", "none"])
async def test_a_job_whose_ticket_cannot_be_read_is_answered_by_what_the_job_says(
    world: World, ticket: bytes | None
) -> None:
    headers = () if ticket is None else ((TICKET, ticket),)
    record = world.log.append(replace(job(world, "r-0"), headers=headers))
    async with dispatching(world, config()) as feed:
        await deliver(feed, record)
    [result] = world.values(NAMES.results)
    assert (result["request_id"], result["error"]["code"]) == ("r-0", "internal")
    assert world.values(NAMES.dead_letters) == []


async def test_a_record_under_another_requests_key_does_not_take_a_slot_for_ever(world: World) -> None:
    record = world.log.append(replace(job(world, "r-0"), key=b"acme/other"))
    async with dispatching(world, config()) as feed:
        await deliver(feed, record)
    assert bound(world) == []
    assert [result["request_id"] for result in world.values(NAMES.results)] == ["r-0"]


@pytest.mark.parametrize("kind", ["junk", "ticket of no job", "job"])
async def test_a_successor_to_whom_it_comes_again_writes_no_second_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    failing_push(monkeypatch, b"acme/r-0")
    lane = job(world, "r-0")
    if kind == "junk":
        lane = replace(lane, value=b"{", headers=())
    elif kind == "ticket of no job":
        lane = replace(lane, value=b"{")
    record = world.log.append(lane)
    for _ in range(3):
        async with dispatching(world, config()) as feed:
            await deliver(feed, record)
            assert len(feed.done) == 1
        world.clock.advance(1)
    assert len(world.values(NAMES.results)) + len(world.values(NAMES.dead_letters)) == 1
    assert [row["kind"] for row in world.values(NAMES.decisions)] == ["dead_lettered" if kind == "junk" else "rejected"]


async def test_without_its_lease_the_dispatcher_gives_no_terminal_for_the_pools_owner_does(world: World) -> None:
    lease = [True]
    record = world.put(LANES, b"{")
    async with dispatching(world, config(), lease=lambda: lease[0]) as feed:
        lease[0] = False
        with pytest.raises(Retry):
            await feed.stage.poisoned(record, ZeroDivisionError())
        assert world.values(NAMES.dead_letters) == []
        lease[0] = True
        await feed.stage.poisoned(record, ZeroDivisionError())
        assert len(world.values(NAMES.dead_letters)) == 1
        await feed.stage.revoked(frozenset({record.tp}))
        with pytest.raises(Retry):
            await feed.stage.poisoned(record, ZeroDivisionError())


async def test_a_terminal_is_acknowledged_first_and_written_once_also_by_one_who_was_cut_short(world: World) -> None:
    record = world.put(LANES, b"{")
    async with dispatching(world, config()) as feed:
        world.publisher.hold()
        for _ in range(2):
            giving = asyncio.create_task(feed.stage.poisoned(record, ZeroDivisionError()))
            for _turn in range(20):
                await asyncio.sleep(0)
            assert not giving.done()
            giving.cancel()
            await asyncio.wait([giving])
        world.publisher.release()
        await feed.settle()
        await feed.stage.poisoned(record, ZeroDivisionError())
        assert len(world.values(NAMES.dead_letters)) == 1


async def test_a_terminal_that_is_not_acknowledged_ends_the_process_before_the_record_is_done(world: World) -> None:
    record = world.put(LANES, b"{")
    async with dispatching(world, config()) as feed:
        world.log.fail_next("ack", Retry("lost"))
        with pytest.raises(Fatal):
            await deliver(feed, record)
        assert feed.done == set()
        assert world.fatal
        world.fatal.clear()


async def test_a_request_that_cannot_be_bound_ends_and_the_next_one_gets_the_slot_and_the_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = LaneRecords.bound

    def bug(records: LaneRecords, source: bytes, *rest: Any) -> Outgoing:
        if source.endswith(b"/0"):
            raise ZeroDivisionError(SECRET.decode())
        return make(records, source, *rest)

    monkeypatch.setattr(LaneRecords, "bound", bug)
    lanes = [world.log.append(job(world, *each)) for each in (("bad", "a"), ("next", "b"), ("next", "a"))]
    async with dispatching(world, config(slots=1, weights={"a": 1, "b": 1})) as feed:
        await deliver(feed, *lanes)
        assert ids(bound(world)) == ["a/next"], "a was not charged"
        finish(world, bound(world)[0])
        await eventually(lambda: len(bound(world)) == 2)
        await eventually(lambda: len(feed.done) == 3)
    assert [(row["request_id"], row["error"]["code"]) for row in told(world, NAMES.results) if "error" in row] == [
        ("bad", "internal")
    ]


@pytest.mark.parametrize("ending", ["deadline", "command"])
async def test_a_lane_record_without_a_readable_job_ends_in_its_lane_as_any_other(world: World, ending: str) -> None:
    world.log.append(job(world, "busy"))
    world.log.append(replace(job(world, "r-1", timeout_ms=100), value=SECRET))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        if ending == "deadline":
            world.clock.advance(0.2)
        else:
            world.put(NAMES.commands, encode(Command(command="cancel", tenant_id="acme", request_id="r-1")))
        await eventually(lambda: len(feed.done) == 2)
    [result] = told(world, NAMES.results)
    assert (result["request_id"], result["status"], result["error"]["code"]) == ("r-1", "failed", "internal")
    assert "invalid_json" in result["error"]["message"]


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**63], ids=["huge", "long ago", "just too large"])
async def test_a_ticket_with_a_time_no_clock_shows_is_no_ticket(world: World, value: int) -> None:
    lane = job(world, "r-0")
    ticket = (header(lane.headers, TICKET) or b"").replace(b'"admitted_ms":', b'"admitted_ms":%d,"x":' % value)
    ticket = ticket.replace(b',"x":%d' % world.clock.now_ms(), b"")
    record = world.log.append(replace(lane, value=b"{}", headers=((TICKET, ticket),)))
    async with dispatching(world, config()) as feed:
        await deliver(feed, record)
        assert len(feed.done) == 1
    assert [letter["error"]["code"] for letter in world.values(NAMES.dead_letters)] == ["schema_violation"]
