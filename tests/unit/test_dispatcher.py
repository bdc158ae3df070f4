"""The dispatcher over the log in memory: late binding, fairness, endings in the lane, takeover."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.agents.config_view import ConfigView
from fairlane.agents.dispatcher import SNAPSHOT_S, Dispatcher
from fairlane.ports import Outgoing, Record, TopicPartition
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.command import Command
from fairlane.schemas.headers import DISPATCH, SLOT, SOURCE, TICKET, header
from fairlane.schemas.job import Dispatch, Job, JobRoute, Ticket
from fairlane.schemas.topics import request_key
from fairlane.telemetry import NO_METRICS
from tests.stage_harness import NAMES, Feed, World, config

LANES, INBOX = NAMES.lanes("sim"), NAMES.inbox("sim")
WORKERS = "test.worker"


def job(
    world: World, request_id: str, tenant: str = "acme", *, priority: str = "normal", timeout_ms: int = 60_000
) -> Outgoing:
    """A lane record as the gate writes it."""
    now_ms = world.clock.now_ms()
    now = timestamp_from_ms(now_ms)
    route = JobRoute(
        pool="sim", provider="sim", kind="openai-compatible", base_url="http://x/v1", timeout_ms=1000, model="m",
        provider_model="m", reason="test", price_id="m@2020-01-01", input_price=1, cached_input_price=1, output_price=1,
    )  # fmt: skip
    body = Job(
        request_id=request_id, tenant_id=tenant, idempotency_key=request_id, priority=priority, body={}, route=route,
        hold_nano_usd=5, received_at=now, admitted_at=now, config_version="t1-c1",
    )  # fmt: skip
    ticket = Ticket.model_validate(
        {
            "tenant_id": tenant, "request_id": request_id, "priority": priority, "model": "m", "input_tokens": 100,
            "output_limit": 100, "received_ms": now_ms, "admitted_ms": now_ms, "deadline_ms": now_ms + timeout_ms,
        }
    )  # fmt: skip
    return Outgoing(LANES, f"{tenant}/{request_id}".encode(), encode(body), ((TICKET, encode(ticket)),), 0)


def finish(world: World, record: Record, *, output: int = 100) -> None:
    """The worker's result of an inbox record."""
    headers = ((SLOT, f"sim/{record.partition}/100/{output}".encode()), (SOURCE, b"inbox"))
    world.log.append(Outgoing(NAMES.results, record.key, b"{}", headers))


def bound(world: World) -> list[Record]:
    """Inbox records that are not markers, in the order they were written."""
    return sorted(
        (r for r in world.log.records(INBOX) if r.value is not None), key=lambda r: (r.timestamp_ms, r.offset)
    )


def ids(records: list[Record]) -> list[str]:
    return [(record.key or b"").decode() for record in records]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is in the hands of other tasks
            await asyncio.sleep(0.001)


@asynccontextmanager
async def dispatching(
    world: World,
    view: ConfigView,
    store: MemoryAdmissionStore | None = None,
    *,
    committed: dict[TopicPartition, int] | None = None,
    lease: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Feed]:
    dispatcher = Dispatcher(
        names=NAMES,
        publisher=world.publisher,
        reader=world.reader,
        store=store or MemoryAdmissionStore(),
        config=lambda: view,
        clock=world.clock,
        metrics=NO_METRICS,
        worker_group=WORKERS,
        lease_ok=lease,
        fail=world.fatal.append,
    )
    feed = Feed(world, dispatcher, LANES)
    try:
        await feed.assign(committed)
        yield feed
    finally:
        await dispatcher.drain()
        assert world.fatal == []


@pytest.fixture
def world() -> World:
    return World()


async def test_a_record_leaves_only_when_a_slot_is_free_and_is_done_when_that_is_acknowledged(world: World) -> None:
    for number in range(5):
        world.log.append(job(world, f"r-{number}"))
    async with dispatching(world, config(slots=2)) as feed:
        await feed.step()
        assert ids(bound(world)) == ["acme/r-0", "acme/r-1"]
        assert len(feed.done) == 2
        finish(world, bound(world)[0])
        await eventually(lambda: len(bound(world)) == 3)
        await eventually(lambda: len(feed.done) == 3)


async def test_no_slot_idles_while_a_record_waits_and_none_is_taken_twice(world: World) -> None:
    async with dispatching(world, config(slots=5)) as feed:
        for number in range(40):
            world.log.append(job(world, f"r-{number}", f"t{number % 3}"))
        await feed.step()
        for served in range(35):
            assert len(bound(world)) == min(40, 5 + served)
            finish(world, bound(world)[served])
            await eventually(lambda served=served: len(bound(world)) == min(40, 6 + served))  # type: ignore[misc]
        assert max(Counter(ids(bound(world))).values()) == 1


async def test_a_flood_does_not_delay_a_light_tenant(world: World) -> None:
    view = config(slots=1, weights={"flood": 1, "light": 1})
    async with dispatching(world, view) as feed:
        for number in range(50):
            world.log.append(job(world, f"f-{number}", "flood"))
        await feed.step()
        world.log.append(job(world, "l-0", "light"))
        await feed.step()
        for served in range(2):
            finish(world, bound(world)[served])
            await eventually(lambda served=served: len(bound(world)) == served + 2)  # type: ignore[misc]
        assert "light/l-0" in ids(bound(world))


async def test_weights_decide_the_shares_and_change_live(world: World) -> None:
    async with dispatching(world, config(slots=1, weights={"a": 4, "b": 1})) as feed:
        for number in range(60):
            for tenant in "ab":
                world.log.append(job(world, f"{tenant}-{number}", tenant))
        await feed.step()

        async def serve(count: int) -> Counter[str]:
            start = len(bound(world))
            for _ in range(count):
                before = len(bound(world))
                finish(world, bound(world)[-1])
                await eventually(lambda before=before: len(bound(world)) > before)  # type: ignore[misc]
            return Counter(name.split("/")[0] for name in ids(bound(world))[start:])

        assert (await serve(50))["a"] == pytest.approx(40, abs=1)
        assert isinstance(feed.stage, Dispatcher)
        feed.stage.configured(config(slots=1, weights={"a": 1, "b": 1}))
        assert (await serve(20))["a"] == pytest.approx(10, abs=1)


async def test_the_wait_of_each_dispatched_record_is_explained(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        for number in range(3):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        finish(world, bound(world)[0])
        await eventually(lambda: len(world.values(NAMES.decisions)) == 2)
        first, second = world.values(NAMES.decisions)
        assert (first["kind"], first["reason"]["code"]) == ("dispatched", "slot_free")
        assert second["reason"]["code"] == "own_lane"
        assert second["attributes"]["own_requests_before"] == "1"


async def test_a_deadline_that_passes_in_the_lane_ends_the_request_there(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        world.log.append(job(world, "r-0"))
        world.log.append(job(world, "r-1", timeout_ms=100))
        await feed.step()
        world.clock.advance(0.2)
        await eventually(lambda: len(world.values(NAMES.results)) == 1)
        [result] = world.values(NAMES.results)
        assert (result["request_id"], result["status"], result["error"]["code"]) == (
            "r-1",
            "expired",
            "deadline_exceeded",
        )
        await eventually(lambda: len(feed.done) == 2)


async def test_a_waiting_request_is_cancelled_by_command_also_before_it_arrives(world: World) -> None:
    def cancel(request_id: str) -> None:
        command = Command(command="cancel", tenant_id="acme", request_id=request_id)
        world.put(NAMES.commands, encode(command))

    async with dispatching(world, config(slots=1)) as feed:
        for number in range(2):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        world.put(NAMES.commands, b"nonsense")
        cancel("r-1")
        cancel("early")
        await eventually(lambda: len(world.values(NAMES.results)) == 1)
        world.log.append(job(world, "early"))
        await feed.step()
        await eventually(lambda: len(world.values(NAMES.results)) == 2)
        assert {r["request_id"]: r["status"] for r in world.values(NAMES.results)} == {
            "r-1": "cancelled",
            "early": "cancelled",
        }


async def test_a_lane_record_written_twice_is_dispatched_once(world: World) -> None:
    async with dispatching(world, config(slots=4)) as feed:
        world.log.append(job(world, "r-0"))
        world.log.append(job(world, "r-0"))
        await feed.step()
        assert ids(bound(world)) == ["acme/r-0"]
        assert len(feed.done) == 2


async def test_without_its_lease_nothing_is_dispatched(world: World) -> None:
    lease = [True]
    async with dispatching(world, config(slots=4), lease=lambda: lease[0]) as feed:
        lease[0] = False
        world.log.append(job(world, "r-0"))
        await feed.step()
        assert bound(world) == []


async def test_a_successor_dispatches_the_rest_and_counts_what_is_in_flight(world: World) -> None:
    for number in range(6):
        world.log.append(job(world, f"r-{number}"))
    async with dispatching(world, config(slots=3)) as feed:
        await feed.step()
    first = bound(world)
    assert len(first) == 3
    finish(world, first[0])
    # Nothing was committed: all six lane records come again.
    async with dispatching(world, config(slots=3)) as feed:
        await feed.step()
        assert ids(bound(world)) == ["acme/r-0", "acme/r-1", "acme/r-2", "acme/r-3"]
        assert len(feed.done) == 4
        for record in bound(world)[1:]:
            finish(world, record)
        await eventually(lambda: len(bound(world)) == 6)
    assert max(Counter(ids(bound(world))).values()) == 1


async def test_a_successor_writes_its_epoch_first_and_stamps_what_it_dispatches(world: World) -> None:
    world.log.append(job(world, "r-0"))
    for _ in range(2):
        async with dispatching(world, config(slots=1)) as feed:
            await feed.step()
    epochs: dict[int, list[tuple[bool, int]]] = {}
    for record in world.log.records(INBOX):
        raw = header(record.headers, DISPATCH)
        assert raw is not None
        epochs.setdefault(record.partition, []).append((record.value is None, decode(Dispatch, raw).epoch))
    for found in epochs.values():
        assert [epoch for _, epoch in found] == sorted(epoch for _, epoch in found)
        markers = [epoch for marker, epoch in found if marker]
        assert len(set(markers)) == 2


async def test_a_zombies_records_behind_the_new_epoch_do_not_count(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
    old = decode(Dispatch, header(world.log.records(INBOX)[0].headers, DISPATCH) or b"")
    world.clock.advance(1)
    async with dispatching(world, config(slots=1)):
        pass
    zombie = encode(Dispatch(epoch=old.epoch, dispatched_ms=0))
    world.log.append(Outgoing(INBOX, b"acme/z", b"{}", ((DISPATCH, zombie),), 0))
    async with dispatching(world, config(slots=1)) as feed:
        world.log.append(job(world, "r-0"))
        await feed.step()
        assert "acme/r-0" in ids(bound(world))


@pytest.mark.parametrize("read_first", ["a", "b"])
async def test_the_successor_goes_on_with_the_shares_of_its_predecessor(world: World, read_first: str) -> None:
    view = config(slots=1, weights={"a": 1, "b": 1})
    world.log.append(job(world, "waiting", read_first))
    for number in range(3):
        world.log.append(job(world, f"served-{number}", "a", priority="high"))
    world.log.append(job(world, "waiting", "b" if read_first == "a" else "a"))
    async with dispatching(world, view) as feed:
        await feed.step()
        for served in range(2):
            finish(world, bound(world)[served])
            await eventually(lambda served=served: len(bound(world)) == served + 2)  # type: ignore[misc]
    finish(world, bound(world)[-1])
    # Nothing but their service tells the two apart: of equals that came at once the first by name goes first.
    async with dispatching(world, view) as feed:
        await feed.step()
        assert ids(bound(world)) == ["a/served-0", "a/served-1", "a/served-2", "b/waiting"]


async def test_counters_are_in_the_log_a_second_after_they_change_so_that_a_crash_loses_no_more(world: World) -> None:
    def states() -> list[dict[str, Any]]:
        return world.values(NAMES.scheduler_state)

    async with dispatching(world, config(slots=1)) as feed:
        world.clock.advance(SNAPSHOT_S)
        await eventually(lambda: len(states()) == 1)
        world.log.append(job(world, "r-0"))
        await feed.step()
        world.clock.advance(SNAPSHOT_S)
        await eventually(lambda: len(states()) == 2)
        assert states()[0]["floor"] == 0 < states()[1]["floor"]
        finish(world, bound(world)[0], output=7)
        await feed.settle()
        world.clock.advance(SNAPSHOT_S)
        await eventually(lambda: len(states()) == 3)
        assert list(states()[2]["predicted_output"].values()) == [7]


@pytest.mark.parametrize("ending", ["without usage", "too large for the inbox"])
async def test_a_request_that_got_no_service_costs_its_tenant_no_turn(world: World, ending: str) -> None:
    async with dispatching(world, config(slots=1, weights={"a": 1, "b": 1})) as feed:
        first = job(world, "no-service", "a")
        if ending == "too large for the inbox":
            world.log.append(replace(first, value=(first.value or b"")[:-1] + b" " * 5000 + b"}"))
            world.log.max_record_bytes = 4000
        else:
            world.log.append(first)
        for tenant in "ab":
            world.log.append(job(world, "next", tenant))
        await feed.step()
        if ending == "without usage":
            # As a worker tells of a request that expired before its call, or of a call that failed unbilled.
            [record] = bound(world)
            slot = (SLOT, f"sim/{record.partition}/0/0".encode())
            world.log.append(Outgoing(NAMES.results, record.key, b"{}", (slot,)))
        await eventually(lambda: bool({"a/next", "b/next"} & set(ids(bound(world)))))
        assert ids(bound(world))[-1] == "a/next", "by name it goes before b, had it no service before"
        finish(world, bound(world)[-1])
        await eventually(lambda: ids(bound(world))[-1] == "b/next")


async def test_requests_whose_ids_hold_slashes_are_not_taken_for_each_other(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        for tenant, request_id in (("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c")):
            lane = job(world, request_id, tenant)
            world.log.append(replace(lane, key=request_key(tenant, request_id)))
        await feed.step()
        for served in range(3):
            await eventually(lambda served=served: len(bound(world)) == served + 1)  # type: ignore[misc]
            finish(world, bound(world)[served])
        assert sorted(ids(bound(world))) == ["a%252Fb/c", "a%2Fb/c", "a/b/c"]
