"""A tenant's lane records are spread over its hand, and a flood leaves others a free partition."""

from __future__ import annotations

from collections import Counter

import pytest

from fairlane.policy.lanes import HAND, LanePlacer, hand


def test_a_hand_is_stable_distinct_and_of_its_size() -> None:
    assert hand("acme", 16) == hand("acme", 16)
    assert len(set(hand("acme", 16))) == HAND


def test_few_partitions_make_a_smaller_hand() -> None:
    assert sorted(hand("acme", 2)) == [0, 1]


def test_a_flood_stays_in_its_hand_and_is_even_there() -> None:
    placer = LanePlacer(16)
    placed = Counter(placer.place("flood") for _ in range(400))
    assert set(placed) == set(hand("flood", 16))
    assert set(placed.values()) == {100}


def test_a_light_tenant_is_placed_off_the_flood_where_its_hand_allows() -> None:
    placer = LanePlacer(64)
    for _ in range(1000):
        placer.place("flood")
    free = [name for name in (f"t{i}" for i in range(200)) if set(hand(name, 64)) - set(hand("flood", 64))]
    assert len(free) == 200
    assert all(placer.place(name) not in hand("flood", 64) for name in free)


def test_hands_of_tenants_that_were_not_placed_lately_are_dealt_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt: list[str] = []

    def counted(tenant_id: str, partitions: int) -> tuple[int, ...]:
        dealt.append(tenant_id)
        return hand(tenant_id, partitions)

    monkeypatch.setattr("fairlane.policy.lanes.hand", counted)
    monkeypatch.setattr("fairlane.policy.lanes.HANDS_MAX", 2)
    placer = LanePlacer(16)
    for tenant in ("a", "b", "c", "c", "b", "a"):
        placer.place(tenant)
    assert dealt == ["a", "b", "c", "a"]


def test_what_a_flood_placed_is_halved_now_and_then_and_not_forgotten_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlane.policy.lanes._HALVE_AT", 16)
    placer = LanePlacer(16)
    for _ in range(16):
        placer.place("flood")
    beside = next(name for name in map(str, range(1000)) if hand(name, 16)[0] in hand("flood", 16)[:1]
                  and len(set(hand(name, 16)) & set(hand("flood", 16))) == 1)  # fmt: skip
    assert placer.place(beside) not in hand("flood", 16)
