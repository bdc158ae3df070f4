"""One pool of a dispatcher, without its log: what it takes over, ends in the lane, and leaves to its next owner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from fairlane.agents.on_its_way import OnItsWay
from fairlane.agents.pool_scheduler import RETURN_MS, PoolScheduler
from fairlane.agents.pool_takeover import Inherited
from fairlane.errors import Fatal, Retry
from fairlane.ports import Outgoing, Record
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import DISPATCH, SOURCE
from fairlane.schemas.job import Dispatch
from fairlane.schemas.scheduler_state import SchedulerState
from fairlane.telemetry import NO_METRICS
from tests.stage_harness import NAMES, World, config
from tests.unit.test_dispatcher import job

ACME_OWED, GLOBEX_OWED = 100.0, 5_000.0


class OnePool:
    """A scheduler of the pool ``sim`` with one slot and two tenants, and the records that it has done."""

    def __init__(self, world: World, inherited: Inherited) -> None:
        self.world = world
        self.done: list[Record] = []
        self.on_its_way = OnItsWay()
        self.scheduler = PoolScheduler(
            "sim", inherited, names=NAMES, publisher=world.publisher, clock=world.clock, metrics=NO_METRICS,
            on_its_way=self.on_its_way, lease_ok=lambda: world.lease, dispatched=lambda *_: None,
            fail=world.fatal.append,
        )  # fmt: skip
        self.scheduler.apply(config(slots=1, weights={"acme": 1, "globex": 1}))

    def offer(self, record: Record) -> None:
        """Deliver a lane record."""
        self.scheduler.offer(record, self.done.append)


def lane_record(world: World, request_id: str, tenant: str = "acme") -> Record:
    """One of now, as the gate writes it."""
    lane = job(world, request_id, tenant)
    return world.log.append(replace(lane, headers=(*lane.headers, (SOURCE, f"requests/0/{request_id}".encode()))))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    assert world.fatal == []


def left_by_the_last_owner(world: World) -> SchedulerState:
    """A snapshot of now: globex had more service than acme."""
    return SchedulerState(
        pool="sim", epoch=6, event_time=timestamp_from_ms(world.clock.now_ms()),
        counters={"acme": ACME_OWED, "globex": GLOBEX_OWED}, floor=0.0, predicted_output={},
    )  # fmt: skip


@pytest.mark.parametrize(("acme_came_after_s", "counter"), [(-1, ACME_OWED), (1, GLOBEX_OWED)])
async def test_who_came_after_the_snapshot_is_lifted_and_who_waited_then_stands_where_it_stood(
    world: World, acme_came_after_s: int, counter: float
) -> None:
    waits = [lane_record(world, "r-1", "globex")]
    world.clock.advance(2)
    state = left_by_the_last_owner(world)
    world.clock.advance(acme_came_after_s)
    waits.append(lane_record(world, "r-2", "acme"))
    world.clock.advance(5)
    pool = OnePool(world, Inherited(epoch=7, groups=1, state=state))
    for record in waits:
        pool.offer(record)
    world.clock.advance(RETURN_MS / 1000 + 1)
    assert pool.scheduler.snapshot().counters == {"acme": counter, "globex": GLOBEX_OWED}


async def test_a_tenant_that_does_not_return_is_forgotten_once_all_had_time_to(world: World) -> None:
    waits = lane_record(world, "r-1", "globex")
    pool = OnePool(world, Inherited(epoch=7, groups=1, state=left_by_the_last_owner(world)))
    pool.offer(waits)
    assert pool.scheduler.snapshot().counters["acme"] == ACME_OWED
    world.clock.advance(RETURN_MS / 1000 + 1)
    assert "acme" not in pool.scheduler.snapshot().counters


async def test_a_request_that_was_ended_in_its_lane_is_not_dispatched_when_the_gate_wrote_it_twice(
    world: World,
) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    pool.offer(lane_record(world, "r-1"))
    assert pool.scheduler.cancel(b"acme/r-1")
    await pool.scheduler.settled()
    again = lane_record(world, "r-1")
    pool.offer(again)
    assert pool.done[-1] == again
    assert not pool.scheduler.waits


async def test_a_pool_that_is_being_taken_over_takes_no_cancellation(world: World) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    pool.offer(lane_record(world, "r-1"))
    pool.scheduler.suspend()
    assert not pool.scheduler.cancel(b"acme/r-1"), "its next owner has to hear of it"


async def test_a_request_that_comes_into_its_lane_after_its_deadline_is_ended_there_and_not_dispatched(
    world: World,
) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    late = lane_record(world, "r-1")
    world.clock.advance(61)
    pool.offer(late)
    pool.scheduler.pump()
    await pool.scheduler.settled()
    assert [result["status"] for result in world.values(NAMES.results)] == ["expired"]
    assert pool.done == [late]
    assert pool.scheduler.under_way == 0


async def test_of_a_backlog_that_expired_together_a_turn_ends_only_a_part_and_dispatches_others_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlane.agents.pool_scheduler.EXPIRED_AT_ONCE", 4)
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    for number in range(6):
        pool.offer(lane_record(world, f"r-{number}"))
    world.clock.advance(61)
    pool.offer(lane_record(world, "other", "globex"))
    for ended in (4, 6):
        pool.scheduler.pump()
        await pool.scheduler.settled()
        assert [result["status"] for result in world.values(NAMES.results)] == ["expired"] * ended
        assert [record.key for record in world.log.records(NAMES.inbox("sim"))] == [b"globex/other"]
    assert len(pool.done) == 7
    assert not pool.scheduler.waits


async def test_what_expired_and_is_not_ended_yet_is_ended_once_though_its_record_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlane.agents.pool_scheduler.EXPIRED_AT_ONCE", 0)
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    record, spoilt = lane_record(world, "r-1"), lane_record(world, "r-2")
    for each in (record, spoilt):
        pool.offer(each)
    world.clock.advance(61)
    pool.scheduler.pump()
    assert pool.scheduler.waits
    assert [each for each, _ in pool.scheduler.left_over([])] == [record, spoilt]
    again: list[Record] = []
    pool.scheduler.offer(record, again.append)
    await pool.scheduler.poisoned(spoilt, ValueError("a bug"))
    monkeypatch.setattr("fairlane.agents.pool_scheduler.EXPIRED_AT_ONCE", 4)
    pool.scheduler.pump()
    await pool.scheduler.settled()
    assert [(each["request_id"], each["status"]) for each in world.values(NAMES.results)] == [
        ("r-2", "failed"),
        ("r-1", "expired"),
    ]
    assert (pool.done, again) == ([], [record])


async def test_many_cancellations_at_once_are_ended_no_faster_than_the_log_takes_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlane.agents.on_its_way.UNACKNOWLEDGED_BYTES_MAX", 20_000)
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    for number in range(100):
        pool.offer(lane_record(world, f"r-{number}"))
    world.lease = False
    assert all(pool.scheduler.cancel(f"acme/r-{number}".encode()) for number in range(100))
    world.lease = True
    world.publisher.hold()
    pool.scheduler.pump()
    assert 20_000 <= pool.on_its_way.size < 25_000
    world.publisher.release()
    while len(world.values(NAMES.results)) < 100:
        await pool.scheduler.settled()
        pool.scheduler.pump()
    assert {result["status"] for result in world.values(NAMES.results)} == {"cancelled"}
    assert pool.scheduler.under_way == 0


@pytest.mark.parametrize("expires", [True, False])
async def test_what_left_its_lane_keeps_no_record_though_others_wait_before_it(
    world: World, monkeypatch: pytest.MonkeyPatch, expires: bool
) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    pool.offer(lane_record(world, "slot"))
    pool.scheduler.pump()
    for number in range(10):
        pool.offer(lane_record(world, f"r-{number}"))
    everything = pool.scheduler._queue.all_waiting()
    assert all(each.payload is not None for each in everything)
    if expires:
        world.clock.advance(61)
        pool.scheduler.pump()
    else:
        assert pool.scheduler.cancel(b"acme/r-9")
    await pool.scheduler.settled()
    assert [each.payload is None for each in everything] == [expires] * 9 + [True]


async def test_a_dispatch_behind_a_higher_epoch_is_not_finished_and_ends_the_process(world: World) -> None:
    """A marker of an earlier owner, whose clock was ahead, arrives late: workers take nothing of ours behind it."""
    pool = OnePool(world, Inherited(epoch=7, groups=1, markers={0: -1}))
    for request_id in ("before", "void"):
        pool.offer(lane_record(world, request_id))
    pool.scheduler.pump()
    await pool.scheduler.settled()
    assert len(pool.done) == 1
    dispatched = (DISPATCH, encode(Dispatch(epoch=8, dispatched_ms=0)))
    world.log.append(Outgoing(NAMES.inbox("sim"), b"epoch", None, (dispatched,), 0))
    pool.scheduler.ended(b"acme/before", 1, 1)
    pool.scheduler.pump()
    await pool.scheduler.settled()
    with pytest.raises(Fatal, match="has epoch 8 behind our 7"):
        await pool.scheduler.check_inbox(world.reader)
    assert len(pool.done) == 1


async def test_a_dispatch_behind_a_higher_epoch_is_nobodys_fault_while_the_lease_is_not_certain(world: World) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1, markers={0: -1}))
    pool.offer(lane_record(world, "r-1"))
    dispatched = (DISPATCH, encode(Dispatch(epoch=8, dispatched_ms=0)))
    world.log.append(Outgoing(NAMES.inbox("sim"), b"epoch", None, (dispatched,), 0))
    pool.scheduler.pump()
    await pool.scheduler.settled()
    world.lease = False
    with pytest.raises(Retry, match="lease"):
        await pool.scheduler.check_inbox(world.reader)
    assert pool.done == []


async def test_a_dispatch_that_is_held_back_is_not_done_when_its_record_is_delivered_again(world: World) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1, markers={0: -1}))
    record = lane_record(world, "r-1")
    pool.offer(record)
    world.log.append(Outgoing(NAMES.inbox("sim"), b"k", None, (), 0))
    pool.scheduler.pump()
    await pool.scheduler.settled()
    pool.offer(record)
    assert pool.done == []
    await pool.scheduler.check_inbox(world.reader)
    assert pool.done == [record]


async def test_nothing_is_finished_by_a_reading_that_ends_after_the_pool_is_lost(world: World) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1, markers={0: -1}))
    pool.offer(lane_record(world, "r-1"))
    world.log.append(Outgoing(NAMES.inbox("sim"), b"k", None, (), 0))
    pool.scheduler.pump()
    await pool.scheduler.settled()
    pool.scheduler.lose()
    await pool.scheduler.check_inbox(world.reader)
    assert pool.done == []


@pytest.mark.parametrize("epoch", [6, None])
async def test_a_dispatch_behind_what_voids_nothing_is_finished_once_that_is_known(
    world: World, epoch: int | None
) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1, markers={0: -1}))
    pool.offer(lane_record(world, "r-1"))
    headers = () if epoch is None else ((DISPATCH, encode(Dispatch(epoch=epoch, dispatched_ms=0))),)
    world.log.append(Outgoing(NAMES.inbox("sim"), b"k", None, headers, 0))
    pool.scheduler.pump()
    await pool.scheduler.settled()
    assert pool.done == []
    await pool.scheduler.check_inbox(world.reader)
    assert len(pool.done) == 1
    await pool.scheduler.check_inbox(world.reader)
    assert len(pool.done) == 1
