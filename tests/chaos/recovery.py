"""How long a fault was felt after its end.

The baseline is taken in the seconds before the fault: the worst 90th percentile of latency over windows of
one second (by the time at which requests were due), and the largest lag (records of all topics behind all
groups' commits). The chain has recovered at the first moment from which, for three seconds on end, every
window's percentile and every lag is at most 1.2 times that. A request without an answer has no end of
latency, and so has a lag that could not be asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairlane.errors import Fatal

FACTOR = 1.2
WINDOW_S = 1.0
STABLE_S = 3.0
STEP_S = 0.1
PERCENT = 90


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual. Seconds and records."""

    latency_s: float
    lag: float


Latencies = Sequence[tuple[float, float]]
"""When each request was due, in order, and its latency; infinity while it has no answer."""
Lags = Sequence[tuple[float, float]]


def baseline(latencies: Latencies, lags: Lags, begin_s: float, end_s: float) -> Baseline:
    """Of the time from ``begin_s`` to ``end_s``. Raises Fatal where it was not at rest."""
    windows, at = [], begin_s
    while at + WINDOW_S <= end_s:
        if values := _within(latencies, at, at + WINDOW_S):
            windows.append(_percentile(values))
        at += WINDOW_S
    seen = _within(lags, begin_s, end_s)
    if not windows or not seen or math.isinf(max(windows)) or math.isinf(max(seen)):
        raise Fatal(f"the chain was not at rest before the fault: latencies {windows} s, lags {seen}")
    return Baseline(max(windows), max(seen))


def recovered_after(latencies: Latencies, lags: Lags, usual: Baseline, ended_s: float, now_s: float) -> float | None:
    """Seconds from the end of the fault to recovery; None if it is not seen yet."""
    latency_bound, lag_bound = usual.latency_s * FACTOR, usual.lag * FACTOR
    at = ended_s
    while at + STABLE_S + latency_bound <= now_s:
        windows = [_within(latencies, at + k * WINDOW_S, at + (k + 1) * WINDOW_S) for k in range(int(STABLE_S))]
        behind = _within(lags, at, at + STABLE_S)
        if (
            all(values and _percentile(values) <= latency_bound for values in windows)
            and behind
            and max(behind) <= lag_bound
        ):
            return at - ended_s
        at += STEP_S
    return None


def _within(series: Sequence[tuple[float, float]], begin: float, end: float) -> list[float]:
    return [value for at, value in series if begin <= at < end]


def _percentile(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * PERCENT / 100) - 1)]
