"""Fairness survives figures that no request can have: those of a broken provider, of a forged ticket or snapshot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.policy.vtc import COST_MAX, FIRST_PREDICTION, REBASE_AT, USAGE_SPARE, WEIGHT_MIN, FairQueue, Pick, Waiting

ABSURD = 2**53 - 1
"""The greatest token count that a contract takes."""


def waiting(tenant: str, number: int, *, tokens: int = 100, band: str = "normal") -> Waiting:
    return Waiting(f"{tenant}/{number}".encode(), tenant, band, "m", tokens, 1_000, number, None, None)


def picked(queue: FairQueue) -> Pick:
    pick = queue.pick()
    assert pick is not None
    return pick


def shares(queue: FairQueue, weights: dict[str, float], picks: int = 1_000) -> dict[str, int]:
    """Of tenants that all keep waiting, each call answered as long as predicted."""
    queue.set_weights(weights)
    for number in range(10_000, 10_000 + picks):
        for tenant in weights:
            queue.push(waiting(tenant, number))
    served = dict.fromkeys(weights, 0)
    for _ in range(picks):
        pick = picked(queue)
        queue.settle(pick.charge, 100, FIRST_PREDICTION)
        served[pick.waiting.tenant_id] += 1
    return served


@given(st.integers(1, 8), st.sampled_from([1.0, WEIGHT_MIN]))
def test_after_answers_with_absurd_usage_weights_count_as_before(answers: int, weight: float) -> None:
    queue = FairQueue()
    queue.set_weights({"wronged": weight})
    for number in range(answers):
        queue.push(waiting("wronged", number))
        queue.settle(picked(queue).charge, ABSURD, ABSURD)
    queue.push(waiting("wronged", 99))
    assert queue.pick() is not None
    assert shares(queue, {"one": 1.0, "four": 4.0})["four"] == pytest.approx(800, abs=5)


def test_what_an_answer_says_to_have_used_counts_up_to_a_whole_context_above_what_was_asked_for() -> None:
    for used, counts in ((400_000, 400_000), (ABSURD, 100 + 2 * 1_000 + USAGE_SPARE)):
        queue = FairQueue()
        queue.push(waiting("acme", 1))
        queue.settle(picked(queue).charge, used, 0)
        assert queue.counter("acme") == counts


def test_an_answer_of_absurd_length_is_not_what_the_next_is_expected_to_be() -> None:
    queue = FairQueue()
    queue.push(waiting("wronged", 1))
    queue.settle(picked(queue).charge, 100, ABSURD)
    assert queue.predicted_output("wronged", "m", ABSURD) == 1_000


@pytest.mark.parametrize("weight", [1.0, WEIGHT_MIN])
def test_a_charge_for_an_absurd_prompt_is_taken_back_whole_and_no_more(weight: float) -> None:
    queue = FairQueue()
    queue.set_weights({"forged": weight})
    queue.push(waiting("other", 1))
    queue.push(waiting("forged", 1, tokens=ABSURD))
    queue.push(waiting("forged", 2))
    for _ in range(2):
        pick = picked(queue)
        if pick.waiting.input_tokens == ABSURD:
            assert pick.charge.units == COST_MAX
            queue.refund(pick.charge)
    assert queue.counter("forged") == 0
    assert shares(queue, {"forged": 1.0, "other": 1.0})["other"] == pytest.approx(500, abs=5)


@pytest.mark.parametrize("at", [10 * REBASE_AT, 1e15, 1.7e308])
def test_weights_count_from_wherever_a_snapshot_begins(at: float) -> None:
    queue = FairQueue()
    queue.restore({"one": at, "four": at}, at, {}, at_ms=5)
    assert shares(queue, {"one": 1.0, "four": 4.0, "new": 4.0}, 900) == pytest.approx(
        {"one": 100, "four": 400, "new": 400}, abs=5
    )


def test_counters_are_taken_down_together_and_keep_what_sets_them_apart() -> None:
    queue = FairQueue()
    at = REBASE_AT + 1
    queue.restore({"ahead": at + 5_000, "behind": at, "away": at + 9_000}, at, {}, at_ms=0)
    for number in range(3):
        for band in ("normal", "low"):
            queue.push(replace(waiting("ahead", number, band=band), key=f"ahead/{band}{number}".encode()))
            queue.push(replace(waiting("behind", number, band=band), key=f"behind/{band}{number}".encode()))
    assert picked(queue).waiting.tenant_id == "behind"
    charged = 100 + 2 * FIRST_PREDICTION
    assert (queue.counter("behind"), queue.counter("ahead"), queue.counter("away")) == (charged, 5_000, 9_000)
    order = [picked(queue).waiting for _ in range(11)]
    assert [each.band for each in order] == ["normal"] * 5 + ["low"] * 6
    assert [each.tenant_id for each in order[:2]] == ["behind", "behind"]
    queue.push(waiting("new", 1))
    assert queue.counter("new") > 0


@pytest.mark.parametrize("newer_first", [False, True])
def test_who_comes_anew_is_lifted_to_one_that_returns_after_counters_were_taken_down(*, newer_first: bool) -> None:
    queue = FairQueue()
    queue.restore({"ahead": 2 * REBASE_AT, "behind": 5.0}, 5.0, {}, at_ms=5)
    queue.push(waiting("ahead", 1))
    if newer_first:
        queue.push(waiting("behind", 6, band="batch"))
    assert picked(queue).waiting.tenant_id == "ahead"
    queue.push(waiting("behind", 2, band="batch"))
    assert queue.counter("behind") < 0
    queue.push(waiting("new", 7, band="batch"))
    assert queue.counter("new") == queue.counter("behind")


def test_who_comes_anew_is_lifted_to_one_that_was_refunded_after_counters_were_taken_down() -> None:
    queue = FairQueue()
    queue.restore({"alone": REBASE_AT - 100}, REBASE_AT - 100, {}, at_ms=0)
    for number in range(4):
        queue.push(waiting("alone", number + 1))
    charges = [picked(queue).charge for _ in range(3)]
    for charge in charges:
        queue.refund(charge)
    assert queue.counter("alone") < 0
    queue.push(waiting("new", 9))
    assert queue.counter("new") == queue.counter("alone")


def test_counters_that_cannot_be_taken_down_together_are_left_alone() -> None:
    queue = FairQueue()
    queue.restore({"ahead": 5 * REBASE_AT, "behind": 0.0}, 0.0, {}, at_ms=5)
    queue.push(waiting("behind", 1, band="low"))
    for number in range(2):
        queue.push(waiting("ahead", number))
    assert picked(queue).waiting.tenant_id == "ahead"
    assert queue.counter("ahead") > 5 * REBASE_AT
    assert queue.counter("behind") == 0
