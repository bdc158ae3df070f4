"""Fairness over takeovers that follow one another before all that waited is read again."""

from __future__ import annotations

from itertools import permutations

import pytest

from fairlane.policy.vtc import FairQueue, Pick, Waiting


def waiting(tenant: str, at_ms: int, band: str = "normal") -> Waiting:
    return Waiting(f"{tenant}/{at_ms}".encode(), tenant, band, "m", 100, 1_000, at_ms, None, None)


def picked(queue: FairQueue) -> Pick:
    pick = queue.pick()
    assert pick is not None
    return pick


def successor(queue: FairQueue, at_ms: int) -> FairQueue:
    counters, floor, predicted = queue.snapshot()
    after = FairQueue()
    after.restore(counters, floor, predicted, at_ms)
    return after


@pytest.mark.parametrize("order", list(permutations([("behind", 2), ("behind", 11), ("least", 3), ("busy", 1)])))
def test_a_lift_that_was_not_taken_back_yet_does_not_outlive_its_dispatcher(order: tuple[tuple[str, int], ...]) -> None:
    queue = FairQueue()
    queue.restore({"busy": 1e9, "behind": 100.0, "least": 0.0}, 0.0, {}, at_ms=10)
    queue.push(waiting("busy", 1))
    queue.push(waiting("behind", 11))
    assert queue.counter("behind") == 1e9
    queue = successor(queue, at_ms=20)
    for tenant, at_ms in order:
        queue.push(waiting(tenant, at_ms))
    assert {tenant: queue.counter(tenant) for tenant in ("busy", "behind", "least")} == {
        "busy": 1e9,
        "behind": 100.0,
        "least": 0.0,
    }


def test_what_a_lifted_tenant_was_charged_meanwhile_goes_on_to_the_next_dispatcher() -> None:
    queue = FairQueue()
    queue.restore({"busy": 1e9, "behind": 100.0}, 0.0, {}, at_ms=10)
    queue.push(waiting("busy", 1))
    queue.push(waiting("behind", 11, "critical"))
    charge = picked(queue).charge
    assert charge.tenant_id == "behind"
    assert successor(queue, at_ms=20).counter("behind") == 100 + charge.units


def test_a_debt_is_kept_while_somebody_lower_may_return_and_forgotten_after() -> None:
    queue = FairQueue()
    queue.restore({"busy": 1e9, "debtor": 5e8, "least": 0.0}, 0.0, {}, at_ms=10)
    queue.push(waiting("debtor", 1))
    charge = picked(queue).charge
    queue.push(waiting("busy", 2))
    queue.refund(charge)
    queue.push(waiting("least", 3))
    queue.push(waiting("debtor", 12))
    assert queue.counter("debtor") == 5e8
    for _ in range(2):
        queue.refund(picked(queue).charge)
    queue.returned()
    assert queue.snapshot()[0] == {"busy": 1e9}


def test_after_all_have_returned_one_that_is_in_flight_keeps_its_counter() -> None:
    queue = FairQueue()
    queue.restore({"busy": 1e9, "least": 0.0}, 0.0, {}, at_ms=10)
    queue.push(waiting("least", 1))
    charge = picked(queue).charge
    queue.push(waiting("busy", 2))
    queue.returned()
    queue.refund(charge)
    queue.push(waiting("least", 12))
    assert queue.counter("least") == 1e9
    assert queue.counter("busy") == 1e9
