"""How long a fault was felt after its end.

The baseline of a row is what was worst in the seconds before its fault, while nothing was disturbed: of latency the
90th percentile over windows of one second (by the time at which requests were due), and for the request path and for
the sinks the lag (records behind the commits of their groups). Between it and the first calm time of the stack there
may be only so much (see :func:`within_drift`). The chain has recovered at the first moment from which, for three
seconds on end, every window's percentile and every lag is at most 1.2 times that. What has no answer has no end of
latency, and so has a lag that could not be asked. A lag below what is offered between two commits is no lag, and a
latency within what calm seconds differ by (:data:`SMALLEST_LATENCY_S`) is not slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairlane.errors import Fatal

FACTOR = 1.2
WINDOW_S = 1.0
STABLE_S = 3.0
STEP_S = 0.1
PERCENT = 90
SMALLEST_LATENCY_S = 0.2
"""Calm seconds of one sound stack have between 0.12 and 0.26 s; a row that began with five of the best was held to
0.16 s, and missed that for a minute by milliseconds."""
SMALLEST_LAG = {"path": 120.0, "sinks": 480.0}
"""Records of half a second (the commit interval) for four groups, and of a second for the sinks, at 60 requests a
second: a request is one record for each group of the path and about eight for the sinks."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is usual. Seconds, and records by part."""

    latency_s: float
    lags: Mapping[str, float]


DRIFT = 1.5
"""How much worse than the first calm time of the stack a row's own baseline may be; beyond that it is judged by this
times the first. Calm seconds of one sound stack differ by up to half: the worst latency of earlier whole runs was 1.56
times the first on a quiet machine. A chain that gets slower by more than that from row to row is not calm, and would
lower its own bar."""


def within_drift(own: Baseline, first: Baseline, load: float = 1.0) -> Baseline:
    """A row's own baseline, at most :data:`DRIFT` times the first one; ``load``: of the row, as a multiple of what the
    first was measured under.

    Its lags count for no less than the first: the load of a row has only just begun when they are measured, and the lag
    of the sinks takes longer than that to come to its height, while the first ones are measured after a quarter of a
    minute. On a busy machine a row began with 395 records behind and had 1,040 to 1,447 for a minute in which nothing
    was disturbed any more; the first baseline was 1,342.
    """
    bound = DRIFT * load
    lags = {}
    for part, lag in own.lags.items():
        most = max(first.lags[part], SMALLEST_LAG[part]) * bound
        lags[part] = min(max(lag, first.lags[part]), most)
    return Baseline(min(own.latency_s, max(first.latency_s, SMALLEST_LATENCY_S) * bound), lags)


Series = Sequence[tuple[float, float]]
"""Values with their times, in order."""


def baseline(latencies: Series, lags: Mapping[str, Series], begin_s: float, end_s: float) -> Baseline:
    """Of the time from ``begin_s`` to ``end_s``: ``latencies`` by when requests were due, infinity for no answer.

    Raises Fatal where the chain was not at rest.
    """
    windows, at = [], begin_s
    while at + WINDOW_S <= end_s:
        if values := _within(latencies, at, at + WINDOW_S):
            windows.append(_percentile(values))
        at += WINDOW_S
    largest = {part: max(_within(series, begin_s, end_s), default=math.inf) for part, series in lags.items()}
    if not windows or math.inf in (*windows, *largest.values()):
        raise Fatal(f"the chain was not at rest before the fault: latencies {windows} s, lags {largest}")
    return Baseline(max(windows), largest)


def recovered_after(
    latencies: Series, lags: Mapping[str, Series], usual: Baseline, ended_s: float, now_s: float
) -> float | None:
    """Seconds from the end of the fault to recovery; None if it is not seen yet."""
    bound_s = max(usual.latency_s, SMALLEST_LATENCY_S) * FACTOR
    at = ended_s
    while at + STABLE_S + bound_s <= now_s:
        windows = [_within(latencies, at + k * WINDOW_S, at + (k + 1) * WINDOW_S) for k in range(int(STABLE_S))]
        if all(values and _percentile(values) <= bound_s for values in windows) and all(
            _small(_within(series, at, at + STABLE_S), max(usual.lags[part], SMALLEST_LAG[part]) * FACTOR)
            for part, series in lags.items()
        ):
            return at - ended_s
        at += STEP_S
    return None


def _small(values: Sequence[float], bound: float) -> bool:
    return bool(values) and max(values) <= bound


def _within(series: Series, begin: float, end: float) -> list[float]:
    return [value for at, value in series if begin <= at < end]


def _percentile(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * PERCENT / 100) - 1)]
