"""What the dispatcher does in steps of many: reading results, telling the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.adapters.memory_log import MemoryReader
from fairlane.agents import dispatch_marks, dispatcher
from fairlane.ports import Record
from tests.stage_harness import NAMES, World, config
from tests.unit.test_dispatcher import bound, dispatching, eventually, finish, job


class Counting(MemoryReader):
    """Counts the batches of results that were read."""

    reads = 0

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        async for batch in super().read(topic, starts, ends, committed_only=committed_only):
            self.reads += topic == NAMES.results and len(batch) > 0
            yield batch


@pytest.fixture
def world() -> World:
    return World()


async def test_a_request_that_waits_makes_results_be_read_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "GATHER_S", 3_600.0)
    async with dispatching(world, config(slots=2)) as feed:
        for number in range(2):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        finish(world, bound(world)[0])
        # Results gather from here on; this one is in the log, and nobody has read it.
        await feed.settle()
        finish(world, bound(world)[1])
        for number in range(2, 5):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        await eventually(lambda: len(bound(world)) == 4)
        # One waits all the time from here on, so nothing gathers.
        finish(world, bound(world)[2])
        await eventually(lambda: len(bound(world)) == 5)


async def test_results_are_read_together_while_nobody_waits_for_a_slot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "GATHER_S", 3_600.0)
    world.reader = reader = Counting(world.log)
    async with dispatching(world, config(slots=20)) as feed:
        for number in range(10):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        for record in bound(world):
            finish(world, record)
            await feed.settle()
        assert reader.reads == 1


async def test_results_of_other_pools_gather_for_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "GATHER_S", 0.0)
    monkeypatch.setattr(dispatcher, "IDLE_GATHER_S", 3_600.0)
    world.reader = reader = Counting(world.log)
    async with dispatching(world, config(slots=1)) as feed:
        world.log.append(job(world, "r-0"))
        await feed.step()
        for _ in range(4):
            # With the first the slot is free: nothing is under way, and the others are nothing to this dispatcher.
            finish(world, bound(world)[0])
            await feed.settle()
        assert reader.reads == 1
        for number in (1, 2):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        # Whoever waits for the slot of the one before ends the pause.
        finish(world, bound(world)[1])
        await eventually(lambda: len(bound(world)) == 3)


class RecordingStore(MemoryAdmissionStore):
    """Keeps what it is told, a list for each round trip."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: list[list[tuple[str, str]]] = []

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        self.marked.append(list(requests))


async def test_undispatched_requests_are_counted_down_in_the_store(world: World) -> None:
    store = RecordingStore()
    async with dispatching(world, config(slots=2), store) as feed:
        for number in range(3):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        await eventually(lambda: store.marked != [])
    assert store.marked == [[("acme", "r-0"), ("acme", "r-1")]]


async def test_the_store_hears_of_several_steps_in_one_round_trip(world: World) -> None:
    store = RecordingStore()
    async with dispatching(world, config(slots=9), store) as feed:
        for number in range(3):
            world.log.append(job(world, f"r-{number}"))
            await feed.step()
        await eventually(lambda: store.marked != [])
        assert store.marked == [[("acme", "r-0"), ("acme", "r-1"), ("acme", "r-2")]]


async def test_a_tenant_with_few_places_has_each_of_them_back_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_marks, "GATHER_S", 3_600.0)
    store = RecordingStore()
    async with dispatching(world, config(slots=9, cap=10), store) as feed:
        for number in range(2):
            world.log.append(job(world, f"r-{number}"))
            await feed.step()
            await eventually(lambda number=number: len(store.marked) == number + 1)  # type: ignore[misc]
