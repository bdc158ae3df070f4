"""Slot groups: how a pool's capacity is split over inbox partitions, and what is in flight in each.

In flight means dispatched and without a terminal result. The sum of the groups' capacities is the
pool's ``slots``, always. Standard library only.
"""

from __future__ import annotations


def split_capacity(slots: int, groups: int) -> list[int]:
    """Capacities of the groups, as even as whole numbers allow; they sum to ``slots``."""
    base, rest = divmod(slots, groups)
    return [base + (1 if group < rest else 0) for group in range(groups)]


class SlotGroups:
    """In-flight requests of a pool by group. ``value`` is the caller's, returned when the slot is freed."""

    def __init__(self, groups: int) -> None:
        self._capacity = [0] * groups
        self._in_flight: list[dict[bytes, object]] = [{} for _ in range(groups)]
        self._group_of: dict[bytes, int] = {}
        self._next = 0

    def resize(self, slots: int) -> None:
        """Set the pool's capacity. A shrunken group takes nothing until it has drained below its new size."""
        self._capacity = split_capacity(slots, len(self._capacity))

    @property
    def capacity(self) -> int:
        """Slots in all."""
        return sum(self._capacity)

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        return len(self._group_of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._group_of

    def free_group(self) -> int | None:
        """The group with most free slots, equals in turn; None if every slot is taken."""
        best, most = None, 0
        # Without turns a pool that is nearly idle would use its first group alone, and one worker would do all.
        for group in (*range(self._next, len(self._capacity)), *range(self._next)):
            free = self._capacity[group] - len(self._in_flight[group])
            if free > most:
                best, most = group, free
        return best

    def take(self, group: int, key: bytes, value: object) -> None:
        """A request left for the group."""
        self._next = (group + 1) % len(self._capacity)
        self._in_flight[group][key] = value
        self._group_of[key] = group

    def release(self, key: bytes) -> object | None:
        """A request has its terminal result; returns its value, None if it held no slot."""
        group = self._group_of.pop(key, None)
        return None if group is None else self._in_flight[group].pop(key)
