"""Which member of a consumer group gets which partitions: evenly, and moving as little as possible."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

Partition = tuple[str, int]
Unit = TypeVar("Unit", Partition, str)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a group: the topics it subscribes to, what it owned, and the age of that claim."""

    topics: frozenset[str]
    owned: frozenset[Partition] = frozenset()
    epoch: int = 0


class Assignment(Protocol):
    """Members and the partition counts of their topics in, the partitions of each member out."""

    def __call__(self, members: Mapping[str, Member], counts: Mapping[str, int]) -> dict[str, set[Partition]]:
        """Assign every partition of every topic that has a subscriber to exactly one subscriber."""
        ...


def sticky(members: Mapping[str, Member], counts: Mapping[str, int]) -> dict[str, set[Partition]]:
    """Each topic's partitions evenly over its subscribers; nobody loses one except to make it even."""
    assignment: dict[str, set[Partition]] = {name: set() for name in members}
    for topic in sorted(counts):
        takers = {name: member for name, member in members.items() if topic in member.topics}
        if not takers:
            continue
        units = [(topic, partition) for partition in range(counts[topic])]
        load = {name: len(assignment[name]) for name in takers}
        for name, held in _stick(units, {n: m.owned for n, m in takers.items()}, takers, load).items():
            assignment[name].update(held)
    return assignment


def whole_topics(members: Mapping[str, Member], counts: Mapping[str, int]) -> dict[str, set[Partition]]:
    """All of a topic to one member. Its owner keeps it while it lives, unless others have too few topics."""
    assignment: dict[str, set[Partition]] = {name: set() for name in members}
    by_takers: dict[frozenset[str], list[str]] = {}
    for topic in sorted(counts):
        takers = frozenset(name for name, member in members.items() if topic in member.topics)
        if takers:
            by_takers.setdefault(takers, []).append(topic)
    load = dict.fromkeys(members, 0)
    for takers, topics in by_takers.items():
        competing = {name: members[name] for name in takers}
        owned = {name: {topic for topic, _ in member.owned} for name, member in competing.items()}
        for name, held in _stick(topics, owned, competing, load).items():
            load[name] += len(held)
            assignment[name].update((topic, partition) for topic in held for partition in range(counts[topic]))
    return assignment


def _stick(
    units: Sequence[Unit],
    claims: Mapping[str, Collection[Unit]],
    members: Mapping[str, Member],
    load: Mapping[str, int],
) -> dict[str, list[Unit]]:
    """Where two claim a unit (one of them was out of the group for a while) the younger claim wins."""
    held: dict[str, list[Unit]] = {name: [] for name in claims}
    orphans: list[Unit] = []
    for unit in units:
        claimants = [name for name in claims if unit in claims[name]]
        if claimants:
            held[max(claimants, key=lambda name: (members[name].epoch, name))].append(unit)
        else:
            orphans.append(unit)
    share, extra = divmod(len(units), len(claims))
    fullest_first = sorted(held, key=lambda name: (-len(held[name]), load[name], name))
    for rank, name in enumerate(fullest_first):
        quota = share + (rank < extra)
        orphans += held[name][quota:]
        del held[name][quota:]
    for unit in orphans:
        held[min(held, key=lambda name: (len(held[name]), load[name], name))].append(unit)
    return held
