"""A consumer whose commits a rebalance overtakes, as happens on the way to a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.adapters.memory_group import Membership
from fairlane.errors import Retry
from fairlane.policy.assignment import sticky
from fairlane.ports import OwnershipLost, Position, TopicPartition


class LateCommits(MemoryConsumer):
    """``away``: no commit reaches the coordinator. ``late``: the next one does in the generation after."""

    away = late = False
    turned_away = 0
    under_way = False

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Commit."""
        if self.away:
            self.turned_away += 1
            raise Retry("the coordinator does not answer", after=0.001)
        if self.late:
            asked_in, self.late, self.under_way = self._generation, False, True
            # The listener hears of the new generation before the answer comes.
            while self._generation == asked_in or not self._settled:  # noqa: ASYNC110 - a group has no event for it
                await asyncio.sleep(0.001)
            self.under_way = False
            raise OwnershipLost(f"{self._name} asked in an earlier generation")
        await super().commit(positions)

    @asynccontextmanager
    async def between_generations(self) -> AsyncIterator[None]:
        """In here the member has given up its partitions for a rebalance, which afterwards leaves them to it."""
        group = self._group
        # A member of before is waited for, and this one never comes.
        absent = group.join(
            Membership(frozenset, self._log.wake, instance="", session_timeout_ms=60_000, assign=sticky, generation=1)
        )
        while not (group.preparing and (member := group.member(self._name)) is not None and member.joined):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        yield
        group.leave(absent)
