"""What somebody else writes into the dispatcher's own topics: it stops no dispatcher, and hides no request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fairlane.agents.inbox_epochs import EPOCH_AHEAD_MS
from fairlane.errors import Poison
from fairlane.policy.vtc import FairQueue, Waiting
from fairlane.ports import Outgoing, Record
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import DISPATCH, IDENTITY, SOURCE, TRACEPARENT
from fairlane.schemas.scheduler_state import SchedulerState
from tests.stage_harness import NAMES, World, config
from tests.unit.test_dispatcher import INBOX, LANES, bound, dispatching, eventually, ids, job
from tests.unit.test_dispatcher_poison import deliver

RECORD_BYTES_MAX = 100_000


@pytest.fixture
def world() -> World:
    return World()


def size_of(outgoing: Outgoing) -> int:
    headers = sum(len(name) + len(value) for name, value in outgoing.headers)
    return len(outgoing.key or b"") + len(outgoing.value or b"") + headers


@pytest.fixture
def bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    append: Callable[[Outgoing], Record] = world.log.append

    def limited(outgoing: Outgoing) -> Record:
        if size_of(outgoing) > RECORD_BYTES_MAX:
            raise Poison("too large")
        return append(outgoing)

    monkeypatch.setattr(world.log, "append", limited)


@pytest.mark.parametrize(
    "dispatch",
    [b"x", b"{}", *(b'{"epoch":%d,"dispatched_ms":1}' % epoch for epoch in (2**63 - 1, 2**63, 10**25))],
)
async def test_an_inbox_record_that_no_dispatcher_can_have_written_stops_no_takeover_and_takes_no_slot(
    world: World, dispatch: bytes
) -> None:
    world.log.append(Outgoing(INBOX, b"k", b"junk", ((DISPATCH, dispatch),), 0))
    for request_id in ("r-0", "r-1"):
        world.log.append(job(world, request_id))
    async with dispatching(world, config(slots=2)) as feed:
        await feed.step()
        assert {"acme/r-0", "acme/r-1"} <= set(ids(bound(world)))


async def test_a_snapshot_with_an_epoch_that_no_clock_shows_is_not_gone_on_from(world: World) -> None:
    now_ms = world.clock.now_ms()
    state = SchedulerState(
        pool="sim", epoch=now_ms + EPOCH_AHEAD_MS + 1_000, event_time=timestamp_from_ms(now_ms), counters={},
        floor=0.0, predicted_output={},
    )  # fmt: skip
    world.log.append(Outgoing(NAMES.scheduler_state, b"sim", encode(state), ()))
    async with dispatching(world, config()) as feed:
        world.log.append(job(world, "r-0"))
        await feed.step()
    assert ids(bound(world)) == ["acme/r-0"]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("timeout_ms", [60_000, -1], ids=["too large for the inbox", "expired"])
@pytest.mark.parametrize("name", [TRACEPARENT, IDENTITY])
async def test_a_request_with_a_header_too_large_to_pass_on_gets_its_terminal(
    world: World, timeout_ms: int, name: str
) -> None:
    lane = job(world, "r-0", timeout_ms=timeout_ms)
    room = RECORD_BYTES_MAX - size_of(lane) - len(name)
    world.log.append(replace(lane, headers=(*lane.headers, (name, b"x" * room))))
    async with dispatching(world, config()) as feed:
        await feed.step()
        await eventually(lambda: len(feed.done) == 1)
    assert len(world.values(NAMES.results)) + len(bound(world)) == 1


@pytest.mark.usefixtures("bounded")
async def test_an_unusable_record_with_a_huge_header_gets_its_terminal(world: World) -> None:
    lane = replace(job(world, "r-0"), key=b"other")
    record = world.log.append(
        replace(lane, headers=(*lane.headers, (IDENTITY, b"x" * (RECORD_BYTES_MAX - size_of(lane) - len(IDENTITY)))))
    )
    async with dispatching(world, config()) as feed:
        await deliver(feed, record)
        assert (len(feed.done), len(world.values(NAMES.results))) == (1, 1)


async def test_a_request_that_was_given_up_is_not_dispatched_when_the_gate_wrote_it_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = job(world, "r-0")
    lane = replace(lane, headers=(*lane.headers, (SOURCE, b"requests/0/0")))
    first, second = world.log.append(lane), world.log.append(lane)
    push = FairQueue.push

    def bug(_queue: FairQueue, _waiting: Waiting) -> None:
        raise ZeroDivisionError

    async with dispatching(world, config()) as feed:
        monkeypatch.setattr(FairQueue, "push", bug)
        await deliver(feed, first)
        monkeypatch.setattr(FairQueue, "push", push)
        await deliver(feed, second)
        assert [result["status"] for result in world.values(NAMES.results)] == ["failed"]
        assert bound(world) == []
        assert len(feed.done) == 2


async def test_junk_hides_no_request_of_the_same_source(world: World) -> None:
    source = (SOURCE, b"requests/0/0")
    junk = world.log.append(Outgoing(LANES, b"k", b"junk", (source,), 0))
    lane = job(world, "r-0")
    genuine = world.log.append(replace(lane, headers=(*lane.headers, source)))
    async with dispatching(world, config()) as feed:
        await deliver(feed, junk, genuine)
    assert ids(bound(world)) == ["acme/r-0"]


async def test_a_request_that_ends_in_its_lane_under_another_requests_ticket_ends_that_one(world: World) -> None:
    lane = job(world, "r-0", timeout_ms=-1)
    other = job(world, "r-1", timeout_ms=-1)
    world.log.append(replace(lane, value=other.value))
    async with dispatching(world, config()) as feed:
        await feed.step()
        await eventually(lambda: len(feed.done) == 1)
    assert [(result["request_id"], result["status"]) for result in world.values(NAMES.results)] == [("r-0", "failed")]
