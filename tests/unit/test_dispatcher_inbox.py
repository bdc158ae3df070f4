"""A dispatcher finds out by itself whether what it wrote behind somebody else's record counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from fairlane.adapters.memory_log import MemoryReader
from fairlane.agents.dispatcher import TICK_S
from fairlane.errors import Retry
from fairlane.ports import Outgoing, Record, Restored, TopicPartition
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import DISPATCH
from fairlane.schemas.job import Dispatch
from tests.stage_harness import Feed, World, config
from tests.unit.test_dispatcher import INBOX, LANES, dispatching, eventually, job

REQUESTS = 4


class SlowInbox(MemoryReader):
    """Reads of the inbox take some turns of the loop, and fail as often as said."""

    turns = 0
    failures = 0
    reads = 0

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """See the port."""
        if topic == INBOX:
            self.reads += 1
            for _ in range(self.turns):
                await asyncio.sleep(0)
            if self.failures:
                self.failures -= 1
                raise Retry("the log is slow", after=0)
        async for batch in super().read(topic, starts, ends, committed_only=committed_only):
            yield batch


@pytest.fixture
def world() -> World:
    return World()


async def hold_back(world: World, feed: Feed) -> None:
    """Dispatch behind the late marker of an earlier epoch, in every partition."""
    header = (DISPATCH, encode(Dispatch(epoch=1, dispatched_ms=1)))
    for partition in range(len(await world.reader.ends(INBOX))):
        world.log.append(Outgoing(INBOX, b"epoch", None, (header,), partition))
    for number in range(REQUESTS):
        world.log.append(job(world, f"r-{number}"))
    await feed.step()


async def test_dispatches_that_are_held_back_are_finished_also_where_the_log_failed_once(world: World) -> None:
    world.reader = reader = SlowInbox(world.log)
    async with dispatching(world, config(slots=REQUESTS)) as feed:
        reader.failures = 1
        await hold_back(world, feed)
        assert not feed.done
        await eventually(lambda: len(feed.done) == REQUESTS)
        assert reader.failures == 0


async def test_dispatches_that_are_held_back_when_lanes_get_more_partitions_are_finished(world: World) -> None:
    world.reader = reader = SlowInbox(world.log)
    async with dispatching(world, config(slots=REQUESTS)) as feed:
        await hold_back(world, feed)
        reader.turns, before = 50, reader.reads
        async with asyncio.timeout(50 * TICK_S):
            while reader.reads == before:  # noqa: ASYNC110 - the dispatcher looks when its tick comes
                await asyncio.sleep(0)
        assert not feed.done
        world.log.grow_topic(LANES, 20)
        world.clock.advance(0.01)
        await feed.stage.assigned({TopicPartition(LANES, number): Restored(0, 0) for number in range(16, 20)})
        assert len(feed.done) == REQUESTS
