"""The dispatcher where things go wrong: zombies, clocks that disagree, topics that grow, records too large."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher
from fairlane.agents.command_intake import CommandIntake
from fairlane.agents.dispatcher import TICK_S
from fairlane.agents.inbox_epochs import encode_note
from fairlane.errors import Retry
from fairlane.policy.offsets import CommitTracker
from fairlane.ports import Outgoing, Position, Record, Restored, TopicPartition
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.command import Command
from fairlane.schemas.headers import DISPATCH, SLOT, SOURCE, header
from fairlane.schemas.job import Dispatch
from tests.stage_harness import NAMES, World, config
from tests.unit.test_dispatcher import INBOX, LANES, WORKERS, bound, dispatching, eventually, finish, ids, job


@pytest.fixture
def world() -> World:
    return World()


def from_gate(lane: Outgoing, source: str) -> Outgoing:
    return replace(lane, headers=(*lane.headers, (SOURCE, source.encode())))


def epoch_of(record: Record) -> int:
    return decode(Dispatch, header(record.headers, DISPATCH) or b"").epoch


def statuses(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for result in world.values(NAMES.results):
        found.setdefault(result["request_id"], []).append(result["status"])
    return found


def only_to_take_over() -> Callable[[], bool]:
    """A lease that is lost as soon as the pool is taken over."""
    answers = iter((True,))
    return lambda: next(answers, False)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- zombies ------------------------------------------------------------------------------------------


async def test_without_its_lease_no_request_is_ended_for_its_new_owner_may_have_dispatched_it(world: World) -> None:
    lease = [True]
    async with dispatching(world, config(slots=1), lease=lambda: lease[0]) as feed:
        for number in range(3):
            world.log.append(job(world, f"r-{number}", timeout_ms=100 if number == 1 else 60_000))
        await feed.step()
        lease[0] = False
        world.clock.advance(0.2)
        world.put(NAMES.commands, encode(Command(command="cancel", tenant_id="acme", request_id="r-2")))
        # That nothing happens shows only in time: it has three turns to go wrong in.
        await asyncio.sleep(3 * TICK_S)
        assert world.values(NAMES.results) == []
        lease[0] = True
        await eventually(lambda: len(world.values(NAMES.results)) == 2)
        assert statuses(world) == {"r-1": ["expired"], "r-2": ["cancelled"]}


async def test_without_its_lease_no_epoch_is_written_for_it_would_void_what_the_owner_dispatches(world: World) -> None:
    with pytest.raises(Retry):
        async with dispatching(world, config(), lease=lambda: False):
            pass
    assert world.log.records(INBOX) == []


async def test_a_zombies_void_record_that_workers_have_passed_does_not_count_as_dispatched(world: World) -> None:
    lane = world.log.append(job(world, "r-0"))
    async with dispatching(world, config(slots=1), lease=only_to_take_over()) as feed:
        await feed.step()
    old = epoch_of(world.log.records(INBOX)[0])
    world.clock.advance(1)
    async with dispatching(world, config(slots=1), lease=only_to_take_over()) as feed:
        await feed.step()
    # The first owner wakes up and binds the record behind the second one's marker; a worker passes over it.
    void = ((DISPATCH, encode(Dispatch(epoch=old, dispatched_ms=0))), (SOURCE, f"{LANES}/0/0".encode()))
    passed = world.log.append(Outgoing(INBOX, lane.key, lane.value, void, 0))
    newest = epoch_of(world.log.records(INBOX)[1])
    commit(world, passed.offset + 1, note=encode_note(newest, clean=False))
    world.clock.advance(1)
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        await eventually(lambda: len(feed.done) == 1)
        assert [epoch_of(r) > newest for r in bound(world) if r.key == lane.key] == [False, True]


async def test_what_an_earlier_owner_dispatched_and_workers_have_passed_is_not_dispatched_again(world: World) -> None:
    world.log.append(job(world, "r-0"))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
    [record] = bound(world)
    commit(world, record.offset + 1, partition=record.partition, note=encode_note(epoch_of(record), clean=False))
    world.clock.advance(1)
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        assert len(feed.done) == 1
        assert len(bound(world)) == 1


async def test_a_result_that_arrives_while_commands_are_read_again_frees_its_slot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.log.append(job(world, "r-0"))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
    [record] = bound(world)
    world.clock.advance(1)
    world.log.append(job(world, "r-1"))

    async def slowly(*_: object, **__: object) -> None:
        finish(world, record)
        for _turn in range(50):
            await asyncio.sleep(0)

    monkeypatch.setattr(CommandIntake, "replay", slowly)
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        await eventually(lambda: "acme/r-1" in ids(bound(world)))


def commit(world: World, offset: int, *, partition: int = 0, note: str = "") -> None:
    position = CommitTracker(offset).position(note)
    world.log.group(WORKERS).positions[TopicPartition(INBOX, partition)] = Position(*position)


# --- clocks -------------------------------------------------------------------------------------------


async def test_an_owner_whose_clock_is_behind_its_predecessors_still_writes_records_that_count(world: World) -> None:
    async with dispatching(world, config(slots=1), lease=only_to_take_over()):
        pass  # It dies before its first snapshot.
    ahead = epoch_of(world.log.records(INBOX)[0])
    for record in world.log.records(NAMES.scheduler_state):
        world.log.trim(NAMES.scheduler_state, 0, record.offset + 1)
    world.clock.advance(-30)
    world.log.append(job(world, "r-0"))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        assert [epoch_of(record) > ahead for record in bound(world)] == [True]


# --- the same request again -----------------------------------------------------------------------------


async def test_a_request_id_used_again_when_its_answer_is_forgotten_is_a_new_request(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        first = from_gate(job(world, "daily-report"), "requests/0/1")
        for lane in (first, first):
            world.log.append(lane)
        await feed.step()
        finish(world, bound(world)[0])
        world.log.append(first)
        await eventually(lambda: len(feed.done) == 2)
        await feed.step()
        await turns()
        assert len(bound(world)) == 1, "written twice by the gate, dispatched once"
        world.log.append(from_gate(job(world, "daily-report"), "requests/0/9"))
        await feed.step()
        await eventually(lambda: len(bound(world)) == 2)


def next_is_bound(world: World, after: Record) -> bool:
    return bound(world)[-1].key != after.key


async def test_of_admissions_that_ended_only_the_latest_are_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlane.agents.ended_admissions.ENDED_LEAST", 1)
    lanes = [from_gate(job(world, f"r-{number}"), f"requests/0/{number}") for number in range(4)]
    async with dispatching(world, config(slots=1)) as feed:
        for lane in lanes:
            world.log.append(lane)
        await feed.step()
        while len(bound(world)) < 4:
            under_way = bound(world)[-1]
            finish(world, under_way)
            await eventually(partial(next_is_bound, world, under_way))
        for lane in lanes[:3]:
            world.log.append(lane)
        await feed.step()
        assert len(feed.done) == 5, "the fourth is under way, the third was recognised, the others wait again"
        finish(world, bound(world)[-1])
        await eventually(lambda: len(bound(world)) == 5)
        assert ids(bound(world)) == [*(f"acme/r-{number}" for number in range(4)), "acme/r-0"]


# --- topics that grow -------------------------------------------------------------------------------------


async def test_lanes_that_get_more_partitions_keep_what_waits_and_what_is_in_flight(world: World) -> None:
    async with dispatching(world, config(slots=2)) as feed:
        for number in range(5):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        assert len(bound(world)) == 2
        world.log.grow_topic(LANES, 20)
        world.log.append(replace(job(world, "new"), partition=18))
        world.clock.advance(0.01)
        await feed.stage.assigned({TopicPartition(LANES, number): Restored(0, 1 if number == 18 else 0)
                                   for number in range(16, 20)})  # fmt: skip
        await feed.stage.process(world.log.slice(TopicPartition(LANES, 18), 0, 1), feed._done)
        for served in range(6):
            await eventually(lambda served=served: len(bound(world)) >= min(6, served + 2))  # type: ignore[misc]
            assert len(bound(world)) - served <= 2
            finish(world, bound(world)[served])
        assert sorted(ids(bound(world))) == ["acme/new", *(f"acme/r-{number}" for number in range(5))]
        await eventually(lambda: len(feed.done) == 6)


async def test_results_that_get_more_partitions_still_free_slots(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlane.agents.dispatcher.PARTITIONS_S", 0.0)
    async with dispatching(world, config(slots=1)) as feed:
        for number in range(2):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        world.log.grow_topic(NAMES.results, 9)
        world.log.append(Outgoing(NAMES.results, b"acme/r-0", b"{}", ((SLOT, b"sim/0/1/1"),), 8))
        await eventually(lambda: len(bound(world)) == 2)


# --- too much, too large ------------------------------------------------------------------------------------


async def test_a_record_too_large_for_the_inbox_ends_and_the_pool_goes_on(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        lane = job(world, "large")
        world.log.append(replace(lane, value=(lane.value or b"")[:-1] + b" " * 5000 + b"}"))
        world.log.append(job(world, "small"))
        world.log.max_record_bytes = 4000
        await feed.step()
        await eventually(lambda: ids(bound(world)) == ["acme/small"])
        await eventually(lambda: len(feed.done) == 2)
        [result] = world.values(NAMES.results)
        assert (result["request_id"], result["status"], result["error"]["code"]) == ("large", "failed", "too_large")


class FullPublisher(MemoryPublisher):
    """Refuses what is above its bound, as a publisher with a bounded buffer does."""

    def __init__(self, log: MemoryLog, limit: int) -> None:
        super().__init__(log)
        self.limit = limit
        self.waiting = 0

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        size = len(record.value or b"") + 1000
        if self.waiting + size > self.limit:
            full: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
            full.set_exception(Retry("no room"))
            return full
        self.waiting += size
        ack = super().send(record)

        def freed(_: asyncio.Future[Record]) -> None:
            self.waiting -= size

        ack.add_done_callback(freed)
        return ack


@asynccontextmanager
async def bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    world.publisher = FullPublisher(world.log, 120_000)
    monkeypatch.setattr("fairlane.agents.on_its_way.UNACKNOWLEDGED_BYTES_MAX", 60_000)
    yield


async def test_a_backlog_that_expired_at_once_is_ended_in_steps_that_fit_the_publishers_buffer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bounded(world, monkeypatch), dispatching(world, config(slots=1)) as feed:
        world.log.append(job(world, "busy"))
        await feed.step()
        for number in range(300):
            world.log.append(job(world, f"r-{number}", timeout_ms=10))
        await feed.step()
        world.clock.advance(1)
        await eventually(lambda: len(feed.done) == 301 or bool(world.fatal))
        assert Counter(result["status"] for result in world.values(NAMES.results)) == {"expired": 300}


async def test_many_free_slots_are_filled_in_steps_that_fit_the_publishers_buffer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bounded(world, monkeypatch), dispatching(world, config(slots=200)) as feed:
        for number in range(200):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        await eventually(lambda: len(feed.done) == 200 or bool(world.fatal))
        assert len(bound(world)) == 200


async def test_a_snapshot_too_large_for_a_record_is_left_out(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        world.log.append(job(world, "r-0"))
        await feed.step()
        world.log.max_record_bytes = 10
        await feed.stage.drain()
        assert world.values(NAMES.scheduler_state) == []


# --- what was given back, and what is lost --------------------------------------------------------------------


async def test_a_record_given_back_while_its_write_is_on_its_way_is_not_done_before_it(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        record = world.log.append(job(world, "r-0"))
        world.publisher.hold()
        for _ in range(2):
            await feed.stage.process([record], feed._done)
            await turns()
        assert not feed.done
        world.publisher.release()
        await eventually(lambda: len(feed.done) == 1)
        assert len(bound(world)) == 1


async def test_a_write_of_a_lost_pool_finishes_nothing_when_its_lanes_come_back(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        record = world.log.append(job(world, "r-0"))
        world.publisher.hold()
        await feed.stage.process([record], feed._done)
        await feed.stage.revoked(frozenset({TopicPartition(LANES, number) for number in range(16)}))
        world.publisher.release()
        await turns()
        assert not feed.done


async def test_figures_of_a_result_that_no_worker_wrote_are_not_believed(world: World) -> None:
    async with dispatching(world, config(slots=1)) as feed:
        for number in range(2):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        for figures in ("9" * 400 + "/1", "1/-5", "1/" + "9" * 4000, "x/y"):
            slot = ((SLOT, f"sim/0/{figures}".encode()),)
            world.log.append(Outgoing(NAMES.results, b"acme/r-0", b"{}", slot))
        await turns()
        finish(world, bound(world)[0])
        await eventually(lambda: len(bound(world)) == 2)


async def test_a_follower_that_a_library_cancels_ends_the_process(world: World) -> None:
    async with dispatching(world, config()):
        [follower] = [task for task in asyncio.all_tasks() if task.get_name() == "dispatcher-results"]
        follower.cancel()
        await eventually(lambda: bool(world.fatal))
        assert "dispatcher-results ended" in str(world.fatal.pop())


async def test_a_dispatcher_that_stops_its_followers_ends_in_peace(world: World) -> None:
    async with dispatching(world, config()) as feed:
        await feed.stage.drain()
        for _ in range(5):
            await asyncio.sleep(0)
        assert world.fatal == []
