"""The group of the log in memory where members are slow: on virtual time, so that no test waits."""

from __future__ import annotations

import asyncio
import random

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.adapters.memory_log import MemoryLog
from fairlane.devstack.simulation.stages import SimulatedClock
from fairlane.devstack.simulation.virtual_loop import VirtualLoop
from fairlane.ports import TopicPartition


class Listener:
    """Takes its time to give something up."""

    def __init__(self, gives_up_s: float = 0.0) -> None:
        self.owned: frozenset[TopicPartition] = frozenset()
        self.gives_up_s = gives_up_s

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.owned = partitions

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.owned = frozenset()
        await asyncio.sleep(self.gives_up_s)


async def poll_for(consumer: MemoryConsumer, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        await consumer.poll(10, 100)


def test_a_member_that_gives_up_for_too_long_is_put_out_and_joins_anew() -> None:
    async def story() -> None:
        log = MemoryLog(SimulatedClock())
        log.create_topic("t", 2)
        slow, quick = Listener(gives_up_s=20), Listener()
        first, second = MemoryConsumer(log, "g", ["t"]), MemoryConsumer(log, "g", ["t"])
        await first.start(slow)
        await poll_for(first, 1)
        assert len(slow.owned) == 2
        await second.start(quick)
        polling = asyncio.create_task(poll_for(first, 60))
        await poll_for(second, 10)
        assert len(quick.owned) == 2
        assert not first.lease_ok()
        slow.gives_up_s = 0
        await poll_for(second, 30)
        assert len(slow.owned) == len(quick.owned) == 1
        assert first.lease_ok()
        await polling

    loop = VirtualLoop(random.Random(1))
    loop.run_until_complete(story())
    loop.close()


def test_a_member_that_was_cut_off_for_less_than_its_session_goes_on_as_if_nothing_had_been() -> None:
    async def story() -> None:
        log = MemoryLog(SimulatedClock())
        log.create_topic("t", 2)
        listener = Listener()
        consumer = MemoryConsumer(log, "g", ["t"], session_timeout_ms=2_000)
        await consumer.start(listener)
        await poll_for(consumer, 1)
        consumer.vanish()
        await poll_for(consumer, 1.8)
        assert not consumer.lease_ok()
        consumer.reappear()
        await poll_for(consumer, 5)
        assert consumer.lease_ok()
        assert log.group("g").generation == 1

    loop = VirtualLoop(random.Random(1))
    loop.run_until_complete(story())
    loop.close()
