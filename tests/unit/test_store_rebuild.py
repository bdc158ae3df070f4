"""An emptied admission store is filled again from the log, by whoever notices first."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.agents import store_rebuild
from fairlane.agents.pool_takeover import MARKER_KEY
from fairlane.agents.rebuilding_store import RebuildingStore
from fairlane.agents.store_rebuild import Groups, StoreRebuild
from fairlane.errors import Fatal, Retry
from fairlane.ports import Outgoing, Record, StoreEmptied, TenantUsage
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.headers import DISPATCH, IDENTITY, JOINED, SOURCE, only
from fairlane.schemas.job import Dispatch, Job
from fairlane.schemas.result import Cost, Result, Status, Timings
from fairlane.telemetry import NO_METRICS
from tests.contract.admission_store import request as asked
from tests.stage_harness import NAMES, Feed, World, config, request
from tests.unit.test_dispatcher import bound, dispatching
from tests.unit.test_gate import REQUESTS, gate_of, kinds, settle_of


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_rebuild, "DRAIN_S", 0.0)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store() -> MemoryAdmissionStore:
    return MemoryAdmissionStore()


def rebuild_of(world: World, store: MemoryAdmissionStore, *, ttl_s: int = 86_400) -> StoreRebuild:
    return StoreRebuild(
        names=NAMES,
        reader=world.reader,
        store=store,
        pools=lambda: ["sim", "never-made"],
        groups=Groups("dispatcher", "worker", "settle"),
        clock=world.clock,
        metrics=NO_METRICS,
        idempotency_ttl_s=ttl_s,
    )


def work_on(world: World, dispatched: Record, key: str) -> None:
    """What a worker writes at the end."""
    tenant, request_id = (dispatched.key or b"").decode().split("/")
    now = timestamp_from_ms(world.clock.now_ms())
    result = Result(
        request_id=request_id,
        tenant_id=tenant,
        idempotency_key=key,
        status=Status.SUCCEEDED,
        response={"said": "hi"},
        cost=Cost(nano_usd=7, price_id="m@2020-01-01"),
        timings=Timings(received_at=now, completed_at=now),
        config_version="t1-c1",
    )
    source = f"{dispatched.topic}/{dispatched.partition}/{dispatched.offset}".encode()
    headers = ((SOURCE, source), *only(dispatched.headers, IDENTITY))
    world.log.append(Outgoing(NAMES.results, dispatched.key, encode(result), headers))


async def usage(store: MemoryAdmissionStore) -> TenantUsage:
    return (await store.usage(["acme"]))[0]


async def test_holds_counts_answers_and_who_waits_for_them_come_back(world: World, store: MemoryAdmissionStore) -> None:
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    for request_id, key in (("r-1", "k"), ("r-2", "k"), ("r-3", "other"), ("r-4", "third")):
        world.put(REQUESTS, request(request_id, idempotency_key=key))
    await gate.step()
    async with dispatching(world, config(slots=2), store) as dispatcher:
        await dispatcher.step()
        assert [record.key for record in bound(world)] == [b"acme/r-1", b"acme/r-3"]
    work_on(world, bound(world)[1], "other")
    before = await usage(store)
    store.empty()

    assert await rebuild_of(world, store).run()

    after = await usage(store)
    # r-3 has its result in the log, which settle had not seen before.
    assert (before.in_flight, before.undispatched, before.spent_nano_usd) == (2, 1, 0)
    assert (after.in_flight, after.undispatched, after.spent_nano_usd) == (1, 1, 7)
    assert after.held_nano_usd == before.held_nano_usd // 3 * 2
    for request_id, key in (("r-5", "k"), ("r-6", "other")):
        world.put(REQUESTS, request(request_id, idempotency_key=key))
    await gate.step()
    assert (kinds(world).count("joined"), kinds(world).count("replayed")) == (2, 1)
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    await settle.step()
    work_on(world, bound(world)[0], "k")
    await settle.step()
    replays = sorted(result["request_id"] for result in world.values(NAMES.results) if result["replayed"])
    assert replays == ["r-2", "r-5", "r-6"]
    assert (await usage(store)).spent_nano_usd == 14


async def test_a_redelivered_record_gets_nothing_a_second_time(world: World, store: MemoryAdmissionStore) -> None:
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    world.put(REQUESTS, request("r-1"))
    world.put(REQUESTS, request("r-2", surprise=1))
    await gate.step()
    store.empty()
    assert await rebuild_of(world, store).run()
    before = len(world.values(NAMES.results)), len(world.log.records(NAMES.lanes("sim")))
    successor = Feed(world, gate_of(world, store), REQUESTS)
    await successor.assign()
    await successor.step()
    assert (len(world.values(NAMES.results)), len(world.log.records(NAMES.lanes("sim")))) == before
    assert (await usage(store)).undispatched == 1


@pytest.mark.parametrize(
    "header",
    [
        b"garbage",
        b"[]",
        b"{}",
        b'{"owner":"r-1"}',
        b'{"owner":1,"answering":"{}"}',
        b'{"owner":"r-1","answering":"null"}',
        b'{"owner":"r-1","answering":"{\\"tenant_id\\":\\"acme\\",\\"surprise\\":1}"}',
        b"[" * 100_000,
    ],
)
async def test_a_joined_decision_that_no_gate_wrote_is_passed_over(
    world: World, store: MemoryAdmissionStore, header: bytes
) -> None:
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    for request_id in ("r-1", "r-2"):
        world.put(REQUESTS, request(request_id, idempotency_key="k"))
    await gate.step()
    forged = ((JOINED, header), (IDENTITY, b"requests/0/7 fingerprint"))
    at = world.log.append(Outgoing(NAMES.decisions, b"acme/r-9", b"{}", forged))
    store.empty()
    with capture_logs() as logs:
        assert await rebuild_of(world, store).run()
    unreadable = [each for each in logs if each["event"] == "joined_header_unreadable"]
    assert [(each["partition"], each["offset"]) for each in unreadable] == [(at.partition, at.offset)]
    assert [each["joined"] for each in logs if each["event"] == "store_rebuilt"] == [1]


async def test_a_dispatch_that_is_void_is_not_in_flight(world: World, store: MemoryAdmissionStore) -> None:
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    world.put(REQUESTS, request("r-1"))
    await gate.step()
    async with dispatching(world, config(), store) as dispatcher:
        await dispatcher.step()
    [dispatched] = bound(world)
    store.empty()
    # An owner that had lost the pool dispatches behind the marker of the next one.
    now_ms = world.clock.now_ms()
    for epoch, key, value in ((now_ms + 2, MARKER_KEY, None), (now_ms + 1, b"acme/r-2", _renamed(dispatched, "r-2"))):
        header = (DISPATCH, encode(Dispatch(epoch=epoch, dispatched_ms=now_ms)))
        headers = (header, *only(dispatched.headers, IDENTITY))
        world.log.append(Outgoing(dispatched.topic, key, value, headers, partition=dispatched.partition))
    with capture_logs() as logs:
        assert await rebuild_of(world, store).run()
    assert [each["in_flight"] for each in logs if each["event"] == "store_rebuilt"] == [1]


def _renamed(dispatched: Record, request_id: str) -> bytes:
    return encode(decode(Job, dispatched.value or b"").model_copy(update={"request_id": request_id}))


async def test_a_cost_older_than_identities_are_kept_still_counts(world: World, store: MemoryAdmissionStore) -> None:
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    world.put(REQUESTS, request("r-1", idempotency_key="k"))
    await gate.step()
    async with dispatching(world, config(), store) as dispatcher:
        await dispatcher.step()
    work_on(world, bound(world)[0], "k")
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    await settle.step()
    store.empty()
    world.clock.advance(3_601)
    assert await rebuild_of(world, store, ttl_s=3_600).run()
    assert (await usage(store)).spent_nano_usd == 7
    [admission] = await store.admit([asked("r-9", key="k")])
    assert admission.outcome == "admitted", "the key is free again"


async def test_only_one_fills_it(world: World, store: MemoryAdmissionStore) -> None:
    store.empty()
    assert await store.claim("another", 10_000)
    assert not await rebuild_of(world, store).run()
    assert not store.filled


async def test_asking_an_emptied_store_fills_it(world: World, store: MemoryAdmissionStore) -> None:
    rebuilding = RebuildingStore(store, rebuild_of(world, store).run, world.fatal.append)
    store.empty()
    with pytest.raises(StoreEmptied):
        await rebuilding.admit([asked()])
    async with asyncio.timeout(5):
        while not store.filled:  # noqa: ASYNC110 - a task of the store does it
            await asyncio.sleep(0)
    [admission] = await rebuilding.admit([asked()])
    assert admission.outcome == "admitted"
    await rebuilding.close()


async def test_a_watched_store_is_filled_though_nobody_asks(world: World, store: MemoryAdmissionStore) -> None:
    rebuilding = RebuildingStore(store, rebuild_of(world, store).run, world.fatal.append)
    store.empty()
    rebuilding.watch()
    async with asyncio.timeout(5):
        while not store.filled:  # noqa: ASYNC110 - a task of the store does it
            await asyncio.sleep(0)
    await rebuilding.close()


async def test_an_outage_while_it_is_filled_is_tried_again_and_a_bug_ends_the_process(
    world: World, store: MemoryAdmissionStore
) -> None:
    failures: list[Exception] = [Retry("the log is away"), ValueError("a bug")]

    async def fails() -> bool:
        raise failures.pop(0)

    rebuilding = RebuildingStore(store, fails, world.fatal.append)
    store.empty()
    for _ in range(2):
        with pytest.raises(StoreEmptied):
            await rebuilding.admit([asked()])
        assert world.fatal == []
        for _ in range(5):
            await asyncio.sleep(0)
    assert failures == []
    assert [type(failure) for failure in world.fatal] == [Fatal]
