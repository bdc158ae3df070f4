"""Slots sum to the pool's capacity, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fairlane.policy.slots import SlotGroups, split_capacity


def name(number: int) -> bytes:
    return str(number).encode()


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_capacity_is_split_evenly_and_completely(slots: int, groups: int) -> None:
    split = split_capacity(slots, groups)
    assert sum(split) == slots
    assert max(split) - min(split) <= 1


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(0, 12), st.integers(1, 5))
def test_never_more_in_flight_than_slots_and_no_slot_idles_while_one_is_wanted(
    keys: list[int], slots: int, groups: int
) -> None:
    pool = SlotGroups(groups)
    pool.resize(slots)
    held: set[int] = set()
    for key in keys:
        if key in held:
            assert pool.release(name(key)) == f"v{key}"
            held.discard(key)
            continue
        group = pool.free_group()
        assert (group is None) == (len(held) == slots)
        if group is not None:
            pool.take(group, name(key), f"v{key}")
            held.add(key)
        assert pool.in_flight == len(held) <= slots


def test_a_shrunken_pool_takes_nothing_until_it_has_drained() -> None:
    pool = SlotGroups(2)
    pool.resize(4)
    for key in range(4):
        group = pool.free_group()
        assert group is not None
        pool.take(group, name(key), None)
    pool.resize(2)
    pool.release(name(0))
    pool.release(name(1))
    assert pool.capacity == 2
    free = pool.free_group()
    assert free is None or pool.in_flight < pool.capacity


def test_groups_with_equally_many_free_slots_take_turns() -> None:
    pool = SlotGroups(3)
    pool.resize(6)
    used = []
    for key in range(6):
        group = pool.free_group()
        assert group is not None
        used.append(group)
        pool.take(group, name(key), None)
        pool.release(name(key))
    assert used == [0, 1, 2, 0, 1, 2]
