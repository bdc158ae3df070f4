"""A member of a consumer group of a :class:`~fairlane.adapters.memory_log.MemoryLog`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence

from fairlane.adapters.memory_group import Membership
from fairlane.adapters.memory_log import MemoryLog
from fairlane.errors import Fatal, Retry
from fairlane.policy.assignment import Assignment, sticky
from fairlane.ports import Bounds, OwnershipLost, Position, RebalanceListener, Record, TopicPartition

METADATA_LIMIT = 4_096


class MemoryConsumer:
    """See :class:`~fairlane.ports.LogConsumer`. ``pattern`` is matched at the start of topic names.

    ``assign`` is :func:`~fairlane.policy.assignment.whole_topics` for dispatchers. Heartbeats go by
    themselves until :meth:`vanish`, which is what kill -9 looks like from outside.
    """

    def __init__(
        self,
        log: MemoryLog,
        group: str,
        topics: Iterable[str] = (),
        *,
        pattern: str | None = None,
        instance: str = "",
        session_timeout_ms: int = 10_000,
        assign: Assignment = sticky,
    ) -> None:
        self._log = log
        self._group = log.group(group)
        self._topics = frozenset(topics)
        self._pattern = re.compile(pattern) if pattern else None
        self._instance = instance
        self._session_timeout_ms = session_timeout_ms
        self._assign = assign
        self._listener: RebalanceListener | None = None
        self._name = ""
        self._generation = 0
        self._owned: frozenset[TopicPartition] | None = None
        self._before: frozenset[TopicPartition] = frozenset()
        self._kept: frozenset[TopicPartition] = frozenset()
        self._cursors: dict[TopicPartition, int] = {}
        self._paused: frozenset[TopicPartition] = frozenset()
        self._settled = False
        """Whether the listener has heard of everything: until then it works on what may be another's."""
        self._vanished_at: float | None = None
        self._turn = 0

    async def start(self, listener: RebalanceListener) -> None:
        """Ask to join."""
        self._log.check("poll")
        self._listener = listener
        self._join()

    async def poll(self, max_records: int, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """Records in order per partition; runs the listener. See the port."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1000
        while True:
            self._log.check("poll")
            if self._vanished_at is None:
                await self._follow_group()
                if drained := self._drain(max_records):
                    return drained
            left = deadline - loop.time()
            if left <= 0:
                return {}
            await self._log.wait(left, {tp.topic for tp in self._cursors if tp not in self._paused})

    def kept(self) -> frozenset[TopicPartition]:
        """What stayed with this member through the last rebalance."""
        return self._kept

    async def bounds(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Where the log of each begins and ends; there are no transactions here."""
        return {tp: Bounds(*self._log.bounds(tp), self._log.bounds(tp)[1]) for tp in partitions}

    def end_seen(self, partition: TopicPartition) -> int | None:
        """The log end of a partition this member owns."""
        return self._log.bounds(partition)[1] if partition in self._cursors else None

    async def committed(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Position]:
        """The group's positions with metadata."""
        self._log.check("committed")
        return {tp: self._group.positions[tp] for tp in partitions if tp in self._group.positions}

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Commit; raises OwnershipLost for what this member does not own in the group's present generation."""
        self._log.check("commit")
        await asyncio.sleep(0)
        member = self._group.member(self._name)
        if member is None or member.generation != self._generation:
            raise OwnershipLost(f"{self._name} is no longer a member of this generation")
        if self._vanished_at is not None:
            raise Retry(f"{self._name} does not reach the coordinator")
        if not positions.keys() <= (self._owned or self._before):
            raise OwnershipLost(f"{self._name} does not own all of {sorted(positions)}")
        for position in positions.values():
            if len(position.metadata) > METADATA_LIMIT:
                raise Fatal(
                    f"commit metadata of {len(position.metadata)} characters; the broker keeps {METADATA_LIMIT}"
                )
        self._group.positions.update(positions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next poll reads from here."""
        if partition in self._cursors:
            self._cursors[partition] = offset

    def pause(self, partitions: frozenset[TopicPartition]) -> None:
        """Leave these out of polls."""
        self._paused |= partitions

    def resume(self, partitions: frozenset[TopicPartition]) -> None:
        """Undo :meth:`pause`."""
        self._paused -= partitions
        self._log.wake()

    def lease_ok(self) -> bool:
        """Whether no other member can own this one's partitions."""
        if self._vanished_at is not None:
            silent_s = asyncio.get_running_loop().time() - self._vanished_at
            return self._settled and silent_s < self._session_timeout_ms / 1000 * 0.8
        return self._settled and self._group.member(self._name) is not None

    async def stop(self) -> None:
        """Leave, or with an instance name stay until the session ends."""
        if self._vanished_at is None:
            if self._instance:
                self.vanish()
            else:
                self._vanished_at = float("-inf")
                self._group.leave(self._name)

    def vanish(self) -> None:
        """Fall silent without a word: the group notices at the end of the session."""
        if self._vanished_at is None:
            self._vanished_at = asyncio.get_running_loop().time()
            self._group.silent(self._name)

    def reappear(self) -> None:
        """Undo :meth:`vanish`: heartbeats go again. Whether the group still knows the member shows in the next poll."""
        if self._vanished_at is not None and self._vanished_at > float("-inf"):
            self._vanished_at = None
            self._group.heard(self._name)
            self._log.wake()

    def _join(self) -> None:
        self._name = self._group.join(
            Membership(
                topics=self._subscribed,
                wake=self._log.wake,
                instance=self._instance,
                session_timeout_ms=self._session_timeout_ms,
                assign=self._assign,
            )
        )

    def _subscribed(self) -> frozenset[str]:
        if self._pattern is None:
            return self._topics
        return frozenset(topic for topic in self._log.counts() if self._pattern.match(topic))

    async def _follow_group(self) -> None:
        """Go through whatever changes of ownership are due."""
        while True:
            member = self._group.member(self._name)
            if member is None:
                if self._group.instance_taken(self._instance):
                    raise Fatal(f"another process joined as {self._instance!r}")
                await self._give_up()
                self._before = frozenset()
                self._join()
            elif self._group.preparing:
                if member.joined:
                    return
                await self._give_up()
                self._group.rejoin(self._name)
            elif member.generation != self._generation:
                await self._take(member)
            else:
                return

    async def _give_up(self) -> None:
        owned, self._owned, self._settled = self._owned, None, False
        if owned is not None:
            self._before = owned
            if self._listener is not None:
                await self._listener.revoked(owned)
        self._cursors.clear()

    async def _take(self, member: Membership) -> None:
        unbroken = member.generation == self._generation + 1
        self._generation = member.generation
        self._owned = member.assignment
        self._kept = member.assignment & self._before if unbroken else frozenset()
        self._paused = frozenset()
        self._cursors = {tp: self._restart(tp) for tp in sorted(self._owned)}
        if self._listener is not None:
            await self._listener.assigned(self._owned)
        self._settled = True

    def _restart(self, tp: TopicPartition) -> int:
        position = self._group.positions.get(tp)
        return position.offset if position is not None else self._log.bounds(tp)[0]

    def _drain(self, max_records: int) -> dict[TopicPartition, Sequence[Record]]:
        if max_records <= 0:
            return {}
        drained: dict[TopicPartition, list[Record]] = {}
        paused, after = self._paused, self._after
        ready = [tp for tp in self._cursors if tp not in paused and after(tp, 1)]
        if not ready:
            return {}
        self._turn += 1
        turn = self._turn % len(ready)
        ready = ready[turn:] + ready[:turn]
        # First an equal share for each, then whatever is left.
        for quota in (max(1, max_records // len(ready)), max_records):
            for tp in ready:
                if records := self._after(tp, min(quota, max_records)):
                    max_records -= len(records)
                    self._cursors[tp] = records[-1].offset + 1
                    drained.setdefault(tp, []).extend(records)
        return dict(drained)

    def _after(self, tp: TopicPartition, limit: int) -> list[Record]:
        return self._log.slice(tp, self._cursors[tp], limit)
