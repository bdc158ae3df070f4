"""When `make chaos` takes the chain for recovered."""

from __future__ import annotations

import math

import pytest

from fairlane.errors import Fatal
from tests.chaos.recovery import DRIFT, SMALLEST_LAG, Baseline, baseline, recovered_after, within_drift

LAGS = {"path": 200.0, "sinks": 600.0}


def every(step_s: float, begin_s: float, end_s: float, value: float) -> list[tuple[float, float]]:
    return [(begin_s + k * step_s, value) for k in range(round((end_s - begin_s) / step_s))]


def lags(end_s: float, path: float = 100.0, sinks: float = 500.0) -> dict[str, list[tuple[float, float]]]:
    return {"path": every(0.5, 0, end_s, path), "sinks": every(0.5, 0, end_s, sinks)}


def test_the_baseline_is_the_worst_second_and_the_largest_lag() -> None:
    latencies = sorted([*every(0.1, 0, 2, 0.1), *every(0.1, 2, 3, 0.3)])
    found = baseline(latencies, lags(3), 0, 3)
    assert found == Baseline(0.3, {"path": 100.0, "sinks": 500.0})


def test_one_slow_answer_in_ten_does_not_make_a_second_slow() -> None:
    assert baseline([*every(0.1, 0, 0.9, 0.1), (0.9, 5.0)], lags(1), 0, 1).latency_s == 0.1


@pytest.mark.parametrize("latency", [math.inf, None])
def test_a_chain_that_does_not_answer_has_no_baseline(latency: float | None) -> None:
    latencies = [] if latency is None else every(0.1, 0, 3, latency)
    with pytest.raises(Fatal, match="not at rest"):
        baseline(latencies, lags(3), 0, 3)


def test_recovery_is_the_first_moment_from_which_all_is_as_usual_for_three_seconds() -> None:
    latencies = [*every(0.1, 0, 4, 2.0), *every(0.1, 4, 12, 0.12)]
    after = recovered_after(latencies, lags(12), Baseline(0.1, LAGS), 0.0, 12.0)
    assert after == pytest.approx(4.0, abs=0.25)


def test_it_is_not_seen_before_the_three_seconds_are_over() -> None:
    latencies = every(0.1, 0, 3, 0.1)
    assert recovered_after(latencies, lags(3), Baseline(0.1, LAGS), 0.0, 3.0) is None
    assert recovered_after(every(0.1, 0, 4, 0.1), lags(4), Baseline(0.1, LAGS), 0.0, 4.0) == 0.0


def test_a_relapse_begins_the_wait_anew() -> None:
    latencies = sorted([*every(0.1, 0, 2, 0.1), *every(0.1, 2, 3, 1.0), *every(0.1, 3, 10, 0.1)])
    after = recovered_after(latencies, lags(10), Baseline(0.1, LAGS), 0.0, 10.0)
    assert after == pytest.approx(3.0, abs=0.25)


@pytest.mark.parametrize("part", ["path", "sinks"])
def test_while_records_lag_behind_it_has_not_recovered(part: str) -> None:
    behind = lags(10)
    behind[part] = every(0.5, 0, 10, LAGS[part] * 1.3)
    assert recovered_after(every(0.1, 0, 10, 0.1), behind, Baseline(0.1, LAGS), 0.0, 10.0) is None


def test_a_lag_nobody_could_ask_is_no_recovery() -> None:
    behind = {**lags(10), "path": every(0.5, 0, 10, math.inf)}
    assert recovered_after(every(0.1, 0, 10, 0.1), behind, Baseline(0.1, LAGS), 0.0, 10.0) is None
    assert recovered_after(every(0.1, 0, 10, 0.1), {**lags(10), "path": []}, Baseline(0.1, LAGS), 0.0, 10.0) is None


def test_seconds_without_any_request_prove_nothing() -> None:
    assert recovered_after([], lags(10), Baseline(0.1, LAGS), 0.0, 10.0) is None


def test_a_row_is_judged_by_its_own_baseline_however_bad_earlier_ones_were() -> None:
    # Nothing of earlier rows is asked for, and the latency of the first time is no floor either.
    own, first = Baseline(0.1, {"path": 210.0, "sinks": 700.0}), Baseline(0.3, LAGS)
    assert within_drift(own, first) == own


def test_a_lag_counts_for_no_less_than_in_the_first_time_which_was_longer() -> None:
    assert within_drift(Baseline(0.1, {"path": 10.0, "sinks": 10.0}), Baseline(0.1, LAGS)) == Baseline(0.1, LAGS)


def test_a_baseline_that_drifted_is_cut_to_so_many_times_the_first() -> None:
    first = Baseline(0.2, {"path": 20.0, "sinks": 600.0})
    drifted = Baseline(0.2 * DRIFT + 0.1, {"path": 1000.0, "sinks": 600.0 * DRIFT + 1})
    # What is below the smallest lag that counts is no measure of a drift.
    bound = {"path": SMALLEST_LAG["path"] * DRIFT, "sinks": 600.0 * DRIFT}
    assert within_drift(drifted, first) == Baseline(0.2 * DRIFT, bound)


def test_more_load_than_the_first_baseline_had_allows_for_more() -> None:
    first, own = Baseline(0.2, LAGS), Baseline(0.2 * DRIFT * 2, {part: lag * DRIFT * 2 for part, lag in LAGS.items()})
    assert within_drift(own, first, 2.0) == own
    assert within_drift(own, first).latency_s < own.latency_s


@pytest.mark.parametrize(("latency_s", "usual_s", "seen"), [(0.23, 0.1, True), (0.25, 0.1, False), (0.35, 0.3, True)])
def test_what_calm_seconds_differ_by_is_not_slow(latency_s: float, usual_s: float, seen: bool) -> None:
    after = recovered_after(every(0.1, 0, 10, latency_s), lags(10), Baseline(usual_s, LAGS), 0.0, 10.0)
    assert (after == 0.0) is seen
