"""One pool of a dispatcher, without its log: what it takes over, ends in the lane, and leaves to its next owner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from fairlane.agents.on_its_way import OnItsWay
from fairlane.agents.pool_scheduler import RETURN_MS, PoolScheduler
from fairlane.agents.pool_takeover import Inherited
from fairlane.ports import Record
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.headers import SOURCE
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
        self.scheduler = PoolScheduler(
            "sim", inherited, names=NAMES, publisher=world.publisher, clock=world.clock, metrics=NO_METRICS,
            on_its_way=OnItsWay(), lease_ok=lambda: world.lease, dispatched=lambda *_: None, fail=world.fatal.append,
        )  # fmt: skip
        self.scheduler.apply(config(slots=1, weights={"acme": 1, "globex": 1}))

    def offer(self, request_id: str, tenant: str = "acme", *, admission: bytes | None = None) -> Record:
        """A lane record of now, as the gate would write it."""
        lane = job(self.world, request_id, tenant)
        headers = (*lane.headers, (SOURCE, admission or f"test.requests/0/{request_id}".encode()))
        record = self.world.log.append(replace(lane, headers=headers))
        self.scheduler.offer(record, self.done.append)
        return record


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    assert world.fatal == []


def taken_over(world: World) -> OnePool:
    """A pool whose last owner left a snapshot of now: globex had more service than acme."""
    state = SchedulerState(
        pool="sim", epoch=6, event_time=timestamp_from_ms(world.clock.now_ms()),
        counters={"acme": ACME_OWED, "globex": GLOBEX_OWED}, floor=0.0, predicted_output={},
    )  # fmt: skip
    return OnePool(world, Inherited(epoch=7, groups=1, state=state))


async def test_who_came_after_the_snapshot_is_lifted_and_who_waited_then_stands_where_it_stood(world: World) -> None:
    pool = taken_over(world)
    pool.offer("waited-then", "globex")
    world.clock.advance(1)
    pool.offer("came-later", "acme")
    assert pool.scheduler.snapshot().counters == {"acme": GLOBEX_OWED, "globex": GLOBEX_OWED}
    other = taken_over(world)
    other.offer("waited-too", "globex")
    other.offer("as-well", "acme")
    assert other.scheduler.snapshot().counters == {"acme": ACME_OWED, "globex": GLOBEX_OWED}


async def test_a_tenant_that_does_not_return_is_forgotten_once_all_had_time_to(world: World) -> None:
    pool = taken_over(world)
    pool.offer("waits", "globex")
    assert pool.scheduler.snapshot().counters["acme"] == ACME_OWED
    world.clock.advance(RETURN_MS / 1000 + 1)
    assert "acme" not in pool.scheduler.snapshot().counters


async def test_a_request_that_was_ended_in_its_lane_is_not_dispatched_when_the_gate_wrote_it_twice(
    world: World,
) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    pool.offer("r-1")
    assert pool.scheduler.cancel(b"acme/r-1")
    await pool.scheduler.settled()
    again = pool.offer("r-1")
    await pool.scheduler.settled()
    assert pool.done[-1] == again
    assert not pool.scheduler.waits


async def test_a_pool_that_is_being_taken_over_takes_no_cancellation(world: World) -> None:
    pool = OnePool(world, Inherited(epoch=7, groups=1))
    pool.offer("r-1")
    pool.scheduler.suspend()
    assert not pool.scheduler.cancel(b"acme/r-1"), "its next owner has to hear of it"
