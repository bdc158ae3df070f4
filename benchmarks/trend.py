"""The slope of a series with restarts, spikes and scatter, and how much of it scatter could have made. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

Line = Sequence[tuple[float, float]]
"""Seconds and values, in the order of time."""
SCATTERS = 3.0
"""Standard deviations of Kendall's S: a series without a trend, of samples that do not depend on each other, is above
them once in 740 times."""


class Trend(NamedTuple):
    """A slope, and how much of it scatter could have made, at :data:`SCATTERS`. Both per second."""

    slope: float
    scatter: float


def trend(lives: Sequence[Line]) -> Trend:
    """Theil-Sen: the median slope of all pairs within each life, which a restart or a spike cannot bend as it bends
    least squares. Scatter is its distance from Sen's lower confidence limit, which is the slope whose rank is lower by
    half of :data:`SCATTERS` standard deviations of Kendall's S (Sen 1968,
    https://doi.org/10.1080/01621459.1968.10480934); infinite where there are too few pairs for that rank, both 0 where
    there are none. The variance of S is (n(n−1)(2n+5) − Σ t(t−1)(2t+5)) / 18 for n samples with groups of t equal
    ones; those of lives add up (Hirsch, Slack and Smith 1982, https://doi.org/10.1029/WR018i001p00107).
    """
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for life in lives for a, b in combinations(life, 2) if a[0] != b[0])
    if not slopes:
        return Trend(0.0, 0.0)
    middle = statistics.median(slopes)
    off = SCATTERS * math.sqrt(sum(_variance_of_s(life) for life in lives))
    if off > len(slopes):
        return Trend(middle, math.inf)
    return Trend(middle, middle - slopes[int((len(slopes) - off) / 2)])


def low_water(points: Line, period_s: float) -> Line:
    """The least value of each whole period from the first point on, at the middle of the period."""
    if not points:
        return []
    begin, end = points[0][0], points[-1][0]
    whole = math.floor((end - begin) / period_s + 1e-9)
    least: dict[int, float] = {}
    for second, value in points:
        period = int((second - begin) // period_s)
        if period < whole:
            least[period] = min(value, least.get(period, math.inf))
    return [(begin + (period + 0.5) * period_s, value) for period, value in sorted(least.items())]


def _variance_of_s(points: Line) -> float:
    groups = [len(points), *Counter(value for _, value in points).values()]
    first, *ties = [n * (n - 1) * (2 * n + 5) / 18 for n in groups]
    return first - sum(ties)
