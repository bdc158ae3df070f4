"""The coordinator of one consumer group in memory: eager rebalances, generations, static members."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fairlane.policy.assignment import Assignment, Member
from fairlane.ports import Position, TopicPartition


@dataclass(slots=True)
class Membership:
    """One member. ``wake`` tells its consumer that something changed."""

    topics: Callable[[], frozenset[str]]
    wake: Callable[[], None]
    instance: str
    session_timeout_ms: int
    assign: Assignment
    joined: bool = True
    generation: int = 0
    assignment: frozenset[TopicPartition] = frozenset()
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)


class MemoryGroup:
    """What a broker keeps about a group. A rebalance waits for every member to come with its next poll."""

    def __init__(self, counts: Callable[[], Mapping[str, int]], rebalance_timeout_ms: int = 5_000) -> None:
        self._counts = counts
        self._rebalance_timeout_s = rebalance_timeout_ms / 1000
        self._deadline: asyncio.TimerHandle | None = None
        self._members: dict[str, Membership] = {}
        self._names = 0
        self.generation = 0
        self.preparing = False
        self.positions: dict[TopicPartition, Position] = {}

    def member(self, name: str) -> Membership | None:
        """The member, or None if it was thrown out."""
        return self._members.get(name)

    def instance_taken(self, instance: str) -> bool:
        """Whether a member uses this stable name now."""
        return any(instance and member.instance == instance for member in self._members.values())

    def join(self, membership: Membership) -> str:
        """Enter; returns the member's name. The successor of a static member takes over in its place."""
        self._names += 1
        name = f"member-{self._names:04d}"
        preparing = self.preparing  # forgetting the last member ends that
        for old_name, old in list(self._members.items()):
            if membership.instance and old.instance == membership.instance:
                self._forget(old_name)
                old.wake()
                if not preparing:
                    membership.assignment, membership.generation = old.assignment, old.generation
                    self._members[name] = membership
                    return name
        self._members[name] = membership
        self.rebalance()
        return name

    def rejoin(self, name: str) -> None:
        """A member is ready for the next generation; too late where it was thrown out while it gave up."""
        member = self._members.get(name)
        if member is not None:
            member.joined = True
            self._complete_if_all_joined()

    def leave(self, name: str) -> None:
        """Go, or be thrown out because the session ended."""
        if name in self._members:
            self._forget(name)
            self.rebalance()

    def silent(self, name: str) -> None:
        """A member's heartbeats stopped: it is thrown out at the end of its session."""
        member = self._members.get(name)
        if member is not None and member.expiry is None:
            member.expiry = asyncio.get_running_loop().call_later(member.session_timeout_ms / 1000, self.leave, name)

    def heard(self, name: str) -> None:
        """A silent member's heartbeats came again in time."""
        member = self._members.get(name)
        if member is not None and member.expiry is not None:
            member.expiry.cancel()
            member.expiry = None

    def rebalance(self) -> None:
        """Begin a rebalance: also to be called when a topic appears."""
        if not self._members:
            return
        if not self.preparing:
            self.preparing = True
            for member in self._members.values():
                member.joined = member.generation == 0  # whoever just entered has nothing to give up
            self._deadline = asyncio.get_running_loop().call_later(self._rebalance_timeout_s, self._throw_out_late)
        for member in self._members.values():
            member.wake()
        self._complete_if_all_joined()

    def _throw_out_late(self) -> None:
        for name in [name for name, member in self._members.items() if not member.joined]:
            self._forget(name)
        self._complete_if_all_joined()

    def _forget(self, name: str) -> None:
        member = self._members.pop(name)
        if member.expiry is not None:
            member.expiry.cancel()
        if not self._members and self._deadline is not None:
            self._deadline.cancel()
            self.preparing = False

    def _complete_if_all_joined(self) -> None:
        if not self.preparing or not all(member.joined for member in self._members.values()):
            return
        self.preparing = False
        if self._deadline is not None:
            self._deadline.cancel()
        if not self._members:
            return
        self.generation += 1
        assignment = self._assign()
        for name, member in self._members.items():
            member.assignment = assignment[name]
            member.generation = self.generation
            member.wake()

    def _assign(self) -> dict[str, frozenset[TopicPartition]]:
        counts = self._counts()
        members = {
            name: Member(member.topics(), frozenset(member.assignment), member.generation)
            for name, member in self._members.items()
        }
        subscribed = frozenset[str]().union(*(member.topics for member in members.values()))
        assign = next(iter(self._members.values())).assign
        assignment = assign(members, {topic: counts[topic] for topic in subscribed if topic in counts})
        return {name: frozenset(TopicPartition(*tp) for tp in owned) for name, owned in assignment.items()}
