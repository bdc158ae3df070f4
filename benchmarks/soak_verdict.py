"""Whether something grew: samples over time held against a tolerance, and what must be true at the end. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import NamedTuple


class Sample(NamedTuple):
    """One figure at one time: ``series`` is what was measured, ``of`` the process, group or store it belongs to."""

    second: float
    series: str
    of: str
    value: float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a series may grow over the whole run: a share of its median, and at least ``least`` of its unit."""

    share: float
    least: float


TOLERANCES: Mapping[str, Tolerance] = {
    "memory, MB": Tolerance(0.10, 10),
    "handles": Tolerance(0.10, 8),
    "threads": Tolerance(0.10, 4),
    "Redis keys": Tolerance(0.05, 100),
    "Redis memory, MB": Tolerance(0.10, 2),
    "lag, records": Tolerance(0.0, 1_000),
}
"""Of the slope times the time after the warm-up: relative, and what is always allowed. Lag: what about a second of
load brings."""
NOT_JUDGED = frozenset({"kafka", "clickhouse"})
"""Their memory fills caches up to limits of their own (the heap, the mark cache), which a soak does not reach."""
SAMPLES_LEAST = 8


@dataclass(frozen=True, slots=True)
class Growth:
    """One series after the warm-up. ``grew`` is the robust slope times the time, ``allowed`` None where not judged."""

    series: str
    of: str
    median: float
    grew: float
    allowed: float | None

    @property
    def holds(self) -> bool:
        """Whether it stayed within the tolerance; a series with too few samples does not."""
        return self.allowed is None or self.grew <= self.allowed


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil-Sen: the median slope of all pairs, which a restart or a spike cannot bend as it bends least squares."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if a[0] != b[0]]
    return statistics.median(slopes) if slopes else 0.0


def growths(samples: Sequence[Sample], warm_up_s: float) -> list[Growth]:
    """Each series of :data:`TOLERANCES` from the warm-up on."""
    found = []
    ordered = sorted((s for s in samples if s.series in TOLERANCES), key=lambda s: (s.series, s.of, s.second))
    for (series, of), group in groupby(ordered, key=lambda s: (s.series, s.of)):
        points = [(s.second, s.value) for s in group if s.second >= warm_up_s]
        median = statistics.median([value for _, value in points]) if points else math.nan
        span_s = points[-1][0] - points[0][0] if points else 0.0
        grew = slope(points) * span_s if len(points) >= SAMPLES_LEAST else math.inf
        tolerance = TOLERANCES[series]
        allowed = max(tolerance.least, tolerance.share * median) if points else 0.0
        judged = of not in NOT_JUDGED or series != "memory, MB"
        found.append(Growth(series, of, median, grew, allowed if judged else None))
    return found


@dataclass(frozen=True, slots=True)
class Custody:
    """What became of the requests: sent and acknowledged, answered, answered twice, and their rows."""

    sent: int
    answered: int
    duplicates: int
    rows: int
    distinct_rows: int
    lag_at_end: float

    def failures(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        said = []
        if self.answered != self.sent:
            said.append(f"{self.sent - self.answered} of {self.sent} requests have no result")
        if self.duplicates:
            said.append(f"{self.duplicates} results came twice")
        if not self.rows == self.distinct_rows == self.answered:
            said.append(f"ClickHouse has {self.rows} rows of {self.distinct_rows} requests for {self.answered} results")
        if self.lag_at_end:
            said.append(f"{self.lag_at_end:g} records are not committed at the end")
        return said
