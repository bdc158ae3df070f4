"""The gate over the log in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.agents.gate import Gate, GateSettings
from fairlane.agents.intake import IntakeLimits
from fairlane.agents.settle import Settle
from fairlane.errors import Fatal, Retry
from fairlane.ports import Outgoing, Record, TopicPartition
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.result import Cost, Result, Status, Timings
from fairlane.telemetry import NO_METRICS
from tests.stage_harness import NAMES, Feed, World, config, request

REQUESTS, LANES = NAMES.requests, NAMES.lanes("sim")
IDEMPOTENCY_TTL_S = 86_400


def gate_of(world: World, store: MemoryAdmissionStore, *, cap: int = 1000) -> Gate:
    return Gate(
        names=NAMES,
        publisher=world.publisher,
        reader=world.reader,
        store=store,
        config=lambda: config(cap=cap),
        clock=world.clock,
        metrics=NO_METRICS,
        settings=GateSettings(IntakeLimits(100_000, 60_000, 86_400_000), IDEMPOTENCY_TTL_S),
        lease_ok=lambda: world.lease,
        fail=world.fatal.append,
    )


def settle_of(world: World, store: MemoryAdmissionStore) -> Settle:
    return Settle(
        names=NAMES,
        publisher=world.publisher,
        reader=world.reader,
        store=store,
        config_version=lambda: "t1-c1",
        clock=world.clock,
        metrics=NO_METRICS,
        idempotency_ttl_s=IDEMPOTENCY_TTL_S,
        lease_ok=lambda: world.lease,
    )


def answer(world: World, request_id: str, key: str, *, cost: int = 7, said: str = "hi") -> None:
    now = timestamp_from_ms(world.clock.now_ms())
    result = Result(
        request_id=request_id,
        tenant_id="acme",
        idempotency_key=key,
        status=Status.SUCCEEDED,
        response={"said": said},
        cost=Cost(nano_usd=cost, price_id="m@2020-01-01"),
        timings=Timings(received_at=now, completed_at=now),
        config_version="t1-c1",
    )
    world.put(NAMES.results, encode(result), f"acme/{request_id}".encode(), None)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store() -> MemoryAdmissionStore:
    return MemoryAdmissionStore()


@pytest.fixture
async def feed(world: World, store: MemoryAdmissionStore) -> Feed:
    feed = Feed(world, gate_of(world, store), REQUESTS)
    await feed.assign()
    return feed


def kinds(world: World) -> list[str]:
    return [decision["kind"] for decision in world.values(NAMES.decisions)]


async def test_a_request_is_held_and_put_in_its_lane_and_done_once_that_is_acknowledged(
    world: World, store: MemoryAdmissionStore, feed: Feed
) -> None:
    world.put(REQUESTS, request("r-1"))
    world.publisher.hold()
    await feed.stage.process(world.log.records(REQUESTS), feed._done)
    assert not feed.done
    world.publisher.release()
    await feed.settle()
    assert feed.done == {(REQUESTS, 0, 0)}
    [job] = world.values(LANES)
    [usage] = await store.usage(["acme"])
    assert usage.held_nano_usd == job["hold_nano_usd"] > 0
    assert kinds(world) == ["admitted"]


async def test_a_record_whose_write_cannot_even_begin_is_worked_on_again_when_it_comes_again(
    world: World, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(REQUESTS, request("r-1"))

    def refuse(_outgoing: Outgoing) -> asyncio.Future[Record]:
        raise ValueError("cannot be encoded")

    with monkeypatch.context() as broken:
        broken.setattr(world.publisher, "send", refuse)
        with pytest.raises(ValueError, match="cannot be encoded"):
            await feed.stage.process(world.log.records(REQUESTS), feed._done)
    await feed.stage.process(world.log.records(REQUESTS), feed._done)
    await feed.settle()
    assert feed.done == {(REQUESTS, 0, 0)}


async def test_bad_records_become_results_or_dead_letters_beside_good_ones(world: World, feed: Feed) -> None:
    for value in (b"{", request("r-1", colour="red"), request("r-2"), request("r-3", tenant="nobody"), None):
        world.put(REQUESTS, value)
    await feed.step()
    assert len(feed.done) == 5
    assert {r["request_id"]: r["error"]["code"] for r in world.values(NAMES.results)} == {
        "r-1": "schema_violation",
        "r-3": "unknown_tenant",
    }
    assert [d["error"]["code"] for d in world.values(NAMES.dead_letters)] == ["invalid_json", "invalid_json"]
    assert [job["request_id"] for job in world.values(LANES)] == ["r-2"]


async def test_a_dead_letter_says_where_the_bytes_are_and_does_not_copy_them(world: World, feed: Feed) -> None:
    world.put(REQUESTS, b'{"secret": "canary-9fd1"')
    await feed.step()
    [letter] = world.values(NAMES.dead_letters)
    assert (letter["source_partition"], letter["source_offset"], letter["payload_bytes"]) == (0, 0, 24)
    for topic in (NAMES.dead_letters, NAMES.decisions):
        assert b"canary" not in b"".join(record.value or b"" for record in world.log.records(topic))


async def test_redelivery_writes_nothing_twice_and_holds_nothing_twice(
    world: World, store: MemoryAdmissionStore, feed: Feed
) -> None:
    for number in range(4):
        world.put(REQUESTS, request(f"r-{number}"))
    world.put(REQUESTS, b"nonsense")
    world.put(REQUESTS, request("r-9", tenant="nobody"))
    await feed.step()
    before = {topic: len(world.log.records(topic)) for topic in (LANES, NAMES.results, NAMES.decisions)}
    [held] = await store.usage(["acme"])
    successor = Feed(world, gate_of(world, store), REQUESTS)
    await successor.assign({TopicPartition(REQUESTS, 0): 0})
    await successor.step()
    assert {topic: len(world.log.records(topic)) for topic in before} == before
    assert len(world.log.records(NAMES.dead_letters)) == 1
    assert await store.usage(["acme"]) == [held]
    assert len(successor.done) == 6


async def test_a_successor_writes_what_its_predecessor_admitted_but_did_not_write(
    world: World, store: MemoryAdmissionStore, feed: Feed
) -> None:
    world.put(REQUESTS, request("r-1"))
    world.publisher.hold()
    await feed.stage.process(world.log.records(REQUESTS), feed._done)
    world.publisher = type(world.publisher)(world.log)
    successor = Feed(world, gate_of(world, store), REQUESTS)
    await successor.assign()
    await successor.step()
    assert len(world.values(LANES)) == 1
    [usage] = await store.usage(["acme"])
    assert usage.undispatched == 1


async def test_an_unacknowledged_write_stops_the_process_and_leaves_the_record_open(world: World, feed: Feed) -> None:
    world.put(REQUESTS, request("r-1"))
    world.log.fail_next("ack", Retry("no answer"))
    await feed.step()
    assert not feed.done
    assert isinstance(world.fatal[0], Fatal)


async def test_a_full_queue_is_refused_with_its_figures(world: World, store: MemoryAdmissionStore) -> None:
    feed = Feed(world, gate_of(world, store, cap=2), REQUESTS)
    await feed.assign()
    for number in range(3):
        world.put(REQUESTS, request(f"r-{number}"))
    await feed.step()
    [refused] = world.values(NAMES.results)
    assert refused["error"]["code"] == "queue_full"
    assert "2 of 2" in refused["error"]["message"]
    assert refused["error"]["retryable"]


async def test_a_key_with_an_answer_is_replayed_under_the_new_id_at_no_cost(
    world: World, store: MemoryAdmissionStore, feed: Feed
) -> None:
    world.put(REQUESTS, request("r-1", idempotency_key="k"))
    await feed.step()
    answer(world, "r-1", "k")
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    await settle.step()
    world.put(REQUESTS, request("r-2", idempotency_key="k", labels={"try": "2"}))
    world.put(REQUESTS, request("r-3", idempotency_key="k", text="Something else"))
    await feed.step()
    replay, mismatch = [r for r in world.values(NAMES.results) if r["request_id"] in ("r-2", "r-3")]
    if replay["request_id"] == "r-3":
        replay, mismatch = mismatch, replay
    assert (replay["replayed"], replay["response"], replay["labels"]) == (True, {"said": "hi"}, {"try": "2"})
    assert (replay["cost"]["nano_usd"], replay["usage"]["output_tokens"]) == (0, 0)
    assert mismatch["error"]["code"] == "idempotency_mismatch"


async def test_a_batch_of_replays_costs_a_few_reads_of_the_log_not_one_each(
    world: World, store: MemoryAdmissionStore, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        world.put(REQUESTS, request(f"r-{number}", idempotency_key=f"k-{number}"))
    await feed.step()
    for number in range(50):
        answer(world, f"r-{number}", f"k-{number}", said=f"hi {number}")
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    await settle.step()
    reads: list[str] = []
    read = world.reader.read

    def counted(topic: str, *ranges: Any) -> Any:
        reads.append(topic)
        return read(topic, *ranges)

    monkeypatch.setattr(world.reader, "read", counted)
    for number in range(50):
        world.put(REQUESTS, request(f"again-{number}", idempotency_key=f"k-{number}"))
    await feed.step()
    replays = {r["request_id"]: r["response"] for r in world.values(NAMES.results) if r["replayed"]}
    assert replays == {f"again-{number}": {"said": f"hi {number}"} for number in range(50)}
    assert len(reads) <= 3


async def test_those_who_join_a_request_in_flight_get_its_answer_once(
    world: World, store: MemoryAdmissionStore, feed: Feed
) -> None:
    world.put(REQUESTS, request("r-1", idempotency_key="k"))
    world.put(REQUESTS, request("r-2", idempotency_key="k"))
    await feed.step()
    assert len(world.values(LANES)) == 1
    assert sorted(kinds(world)) == ["admitted", "joined"]
    answer(world, "r-1", "k", cost=7)
    for _ in range(2):
        settle = Feed(world, settle_of(world, store), NAMES.results)
        await settle.assign()
        await settle.step()
    followers = [r for r in world.values(NAMES.results) if r["request_id"] == "r-2"]
    assert [(r["replayed"], r["cost"]["nano_usd"]) for r in followers] == [(True, 0)]
    [usage] = await store.usage(["acme"])
    assert (usage.held_nano_usd, usage.spent_nano_usd) == (0, 7)


async def test_a_request_sent_twice_while_in_flight_has_one_job(world: World, feed: Feed) -> None:
    world.put(REQUESTS, request("r-1"))
    world.put(REQUESTS, request("r-1"))
    await feed.step()
    assert len(world.values(LANES)) == 1
    assert sorted(kinds(world)) == ["admitted", "duplicate"]


async def test_a_request_id_with_another_body_gets_no_second_terminal(world: World, feed: Feed) -> None:
    world.put(REQUESTS, request("r-1"))
    world.put(REQUESTS, request("r-1", text="Something else"))
    world.put(REQUESTS, request("r-1", colour="red"))
    await feed.step()
    assert world.values(NAMES.results) == []
    assert [d["error"]["code"] for d in world.values(NAMES.dead_letters)] == ["request_id_reused"] * 2


async def test_a_record_the_code_fails_on_is_answered(world: World, feed: Feed) -> None:
    record = world.put(REQUESTS, request("r-1"))
    await feed.stage.poisoned(record, ZeroDivisionError("boom"))
    [result] = world.values(NAMES.results)
    assert (result["status"], result["error"]["code"]) == ("rejected", "internal")


async def test_a_price_is_fixed_at_admission_in_the_job(world: World, feed: Feed) -> None:
    world.put(REQUESTS, request("r-1"))
    await feed.step()
    [job] = world.values(LANES)
    route: dict[str, Any] = job["route"]
    assert (route["price_id"], route["input_price"], route["output_price"]) == (
        "m@2020-01-01",
        150_000_000,
        600_000_000,
    )
    ticket = dict(world.log.records(LANES)[0].headers)["fairlane-ticket"]
    assert orjson.loads(ticket)["tenant_id"] == "acme"


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (b'{"tenant_id":"acme","request_id":7}', ("acme", None)),
        (b'{"tenant_id":"a b","request_id":"r-1"}', (None, "r-1")),
        (b'{"tenant_id":"acme"}', ("acme", None)),
        (b'{"tenant_id":"acme","tenant_id":"beta","request_id":"r-1"}', (None, None)),
        (b"nonsense", (None, None)),
    ],
)
async def test_a_dead_letter_names_as_much_as_can_be_read(
    world: World, feed: Feed, value: bytes, ids: tuple[str | None, str | None]
) -> None:
    world.put(NAMES.requests, value)
    await feed.step()
    [letter] = world.values(NAMES.dead_letters)
    [decision] = world.values(NAMES.decisions)
    assert (letter["tenant_id"], letter["request_id"]) == ids
    assert (decision["tenant_id"], decision["request_id"]) == ids
