"""Our partition assignments as assignors of aiokafka."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from fairlane.policy.assignment import Assignment, Member, sticky, whole_topics

_VERSION = 0


class PolicyAssignor(AbstractPartitionAssignor):
    """Lets the group's leader assign by a policy that knows what each member had before.

    aiokafka takes classes with state in the class; this is an object per consumer, which works as
    well and lets one process hold several. What a member had travels in its user data, with the epoch
    of the assignment it had it from: of two claims the leader believes the younger.
    """

    def __init__(self, name: str, policy: Assignment) -> None:
        self._name = name
        self._policy = policy
        self._owned: list[tuple[str, int]] = []
        self._epoch = 0

    @property
    def name(self) -> str:
        """The protocol's name: all members of a group must use the same."""
        return self._name

    def metadata(self, topics: Iterable[str]) -> Any:
        """What this member tells the leader when it joins."""
        claim = json.dumps({"epoch": self._epoch, "owned": self._owned}, separators=(",", ":"))
        return ConsumerProtocolMemberMetadata(_VERSION, sorted(topics), claim.encode())

    def on_assignment(self, assignment: Any) -> None:
        """What this member got."""
        self._owned = [(tp.topic, tp.partition) for tp in assignment.partitions()]
        self._epoch = _read(assignment.user_data)[0]

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """As the leader, assign for everybody."""
        known: dict[str, Member] = {}
        for name, metadata in members.items():
            epoch, owned = _read(metadata.user_data)
            known[name] = Member(frozenset(metadata.subscription), owned, epoch)
        counts = {
            topic: len(cluster.partitions_for_topic(topic) or ())
            for topic in frozenset[str]().union(*(member.topics for member in known.values()))
        }
        epoch = 1 + max((member.epoch for member in known.values()), default=0)
        user_data = json.dumps({"epoch": epoch, "owned": []}).encode()
        assignment = {}
        for name, partitions in self._policy(known, counts).items():
            by_topic: dict[str, list[int]] = {}
            for topic, partition in sorted(partitions):
                by_topic.setdefault(topic, []).append(partition)
            assignment[name] = ConsumerProtocolMemberAssignment(_VERSION, list(by_topic.items()), user_data)
        return assignment


def sticky_assignor() -> PolicyAssignor:
    """Partitions evenly over members, moving as few as possible."""
    return PolicyAssignor("fairlane-sticky", sticky)


def pool_assignor() -> PolicyAssignor:
    """All partitions of a topic to one member: the lanes of a pool have one dispatcher."""
    return PolicyAssignor("fairlane-pool", whole_topics)


def _read(user_data: bytes | None) -> tuple[int, frozenset[tuple[str, int]]]:
    """The claim in user data. A member of another make claims nothing."""
    try:
        claim = json.loads(user_data or b"{}")
        return int(claim["epoch"]), frozenset((str(topic), int(partition)) for topic, partition in claim["owned"])
    except (ValueError, TypeError, KeyError):
        return 0, frozenset()
