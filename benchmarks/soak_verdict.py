"""Whether something grew: samples over time held against a tolerance, and what must be true at the end. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from typing import NamedTuple


class Sample(NamedTuple):
    """One figure at one time: ``series`` is what was measured, ``of`` the process, group or store it belongs to.

    ``life`` tells the processes apart that had one name in turn, by their ids; 0 where there is nothing to tell.
    """

    second: float
    series: str
    of: str
    value: float
    life: int = 0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a series may grow over the whole run: a share of its median, and at least ``least`` of its unit.

    Where a series goes up and down with the load it may also grow by what its scatter alone makes of a slope once in
    hundreds of runs, but by no more than ``scatter_share`` of its median.
    """

    share: float
    least: float
    scatter_share: float = 0.0


TOLERANCES: Mapping[str, Tolerance] = {
    "memory, MB": Tolerance(0.10, 10),
    "handles": Tolerance(0.10, 8, 0.5),
    "threads": Tolerance(0.10, 4),
    "Redis keys": Tolerance(0.05, 100),
    "Redis memory, MB": Tolerance(0.10, 2),
    "lag, records": Tolerance(0.0, 1_000, 0.5),
}
"""Of the slope times the time after the warm-up: relative, what is always allowed, and what scatter may explain. Calls
under way are handles, and they and the lag go up and down with the load: at 750 requests a second the lag of the
sinks, who insert in batches, is between 1,000 and 15,000 records, and the same samples in a random order have a
growth of ±830 (standard deviation)."""
SCATTERS = 3.0
"""Standard deviations of Kendall's statistic: what has no trend is beyond them once in 740 series."""
OF_A_PROCESS = ("memory, MB", "handles", "threads")
"""The series that each process has."""
CEILINGS_MB: Mapping[str, float] = {"kafka": 900, "clickhouse": 900}
"""Their memory fills caches up to limits of their own (the heap of 512 MB, the mark cache), which a soak does not
reach: so it may grow, but not beyond this."""
ACHIEVED_SHARE = 0.98
SAMPLES_LEAST = 8
SETTLED_AFTER_S = 60.0
"""A process that was just started fills its caches; that is no leak."""
UNSEEN_MOST_S = 45.0
"""A process that was killed, and a group that lost a member, can be asked again sooner: a takeover has 20 s."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One series after the warm-up. ``grew`` is the robust slope times the time, or the largest value where a ceiling
    is what is ``allowed``.
    """

    series: str
    of: str
    median: float
    grew: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether it stayed within what is allowed; a series with too few samples does not."""
        return self.grew <= self.allowed


class Trend(NamedTuple):
    """A slope, and by how much less it could be if it was bent by scatter, at :data:`SCATTERS`. Both per second."""

    slope: float
    scatter: float


def trend(lives: Sequence[Sequence[tuple[float, float]]]) -> Trend:
    """Theil-Sen: the median slope of all pairs within each life, which a restart or a spike cannot bend as it bends
    least squares. How far scatter can bend it is Sen's confidence limit: the slope whose rank is lower by half of the
    standard deviations of Kendall's S (Sen 1968, https://doi.org/10.1080/01621459.1968.10480934), whose variance for
    n samples is n(n−1)(2n+5)/18; those of lives add up.
    """
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for life in lives for a, b in combinations(life, 2) if a[0] != b[0])
    if not slopes:
        return Trend(0.0, 0.0)
    variance = sum(n * (n - 1) * (2 * n + 5) / 18 for n in map(len, lives))
    lowest = max(0, int((len(slopes) - SCATTERS * math.sqrt(variance)) / 2))
    middle = statistics.median(slopes)
    return Trend(middle, middle - slopes[lowest])


def growths(samples: Sequence[Sample], warm_up_s: float) -> list[Growth]:
    """Each series of :data:`TOLERANCES` from the warm-up on.

    A process that is killed begins anew, and so hides what the one before had leaked. So the slope is taken twice,
    over all and over pairs of one life only, each without its first :data:`SETTLED_AFTER_S`; what exceeds its
    allowance by more counts.
    """
    found = []
    ordered = sorted((s for s in samples if s.series in TOLERANCES), key=lambda s: (s.series, s.of, s.second))
    for (series, of), group in groupby(ordered, key=lambda s: (s.series, s.of)):
        judged = [sample for sample in group if sample.second >= warm_up_s]
        median = statistics.median([sample.value for sample in judged]) if judged else math.nan
        if series == "memory, MB" and of in CEILINGS_MB:
            most = max((sample.value for sample in judged), default=math.inf)
            found.append(Growth(series, of, median, most, CEILINGS_MB[of]))
            continue
        tolerance = TOLERANCES[series]
        if len(judged) < SAMPLES_LEAST:
            found.append(Growth(series, of, median, math.inf, tolerance.least))
            continue
        took_s = judged[-1].second - judged[0].second
        always = max(tolerance.least, tolerance.share * median)
        both = []
        for lives in ([[(s.second, s.value) for s in judged]], _lives(judged)):
            slope, scatter = trend(lives)
            by_scatter = min(scatter * took_s, tolerance.scatter_share * median)
            both.append(Growth(series, of, median, slope * took_s, max(always, by_scatter)))
        found.append(max(both, key=lambda growth: (growth.grew - growth.allowed, growth.grew)))
    return found


def unseen(samples: Sequence[Sample], until_s: float, processes: Iterable[str]) -> list[str]:
    """What was not looked at, in words: a series of :data:`TOLERANCES` without any sample, or without one of a process
    that was there, or one with a gap longer than :data:`UNSEEN_MOST_S` between second 0 and ``until_s``. What is not
    seen has not been shown to stand still.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        seen.setdefault((sample.series, sample.of), []).append(sample.second)
    series_seen = {series for series, _ in seen}
    said = [f"{series} was never sampled" for series in TOLERANCES if series not in series_seen]
    said += [
        f"{series} of {name} was never sampled"
        for name in processes for series in OF_A_PROCESS
        if series in series_seen and (series, name) not in seen
    ]  # fmt: skip
    for (series, of), seconds in seen.items():
        gap, end = max((b - a, b) for a, b in pairwise([0.0, *sorted(seconds), until_s]))
        if gap > UNSEEN_MOST_S:
            said.append(f"{series} of {of} was not seen for {gap:.0f} s until second {end:.0f}")
    return said


def _lives(samples: Sequence[Sample]) -> list[list[tuple[float, float]]]:
    """What is settled of each life. The first one was there before the warm-up, so it is settled from the start."""
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.life, []).append(sample)
    begins = [0.0, *(life[0].second + SETTLED_AFTER_S for life in list(lives.values())[1:])]
    return [
        [(s.second, s.value) for s in life if s.second >= begin]
        for begin, life in zip(begins, lives.values(), strict=False)
    ]


@dataclass(frozen=True, slots=True)
class Custody:
    """What became of the requests: sent and acknowledged, answered, of these succeeded, answered twice, their rows."""

    sent: int
    answered: int
    succeeded: int
    duplicates: int
    rows: int
    distinct_rows: int
    lag_at_end: float

    def failures(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        said = []
        if self.answered != self.sent:
            said.append(f"{self.sent - self.answered} of {self.sent} requests have no result")
        if self.succeeded != self.answered:
            said.append(f"{self.answered - self.succeeded} of {self.answered} results are no success")
        if self.duplicates:
            said.append(f"{self.duplicates} results came twice")
        if not self.rows == self.distinct_rows == self.answered:
            said.append(f"ClickHouse has {self.rows} rows of {self.distinct_rows} requests for {self.answered} results")
        if self.lag_at_end:
            said.append(f"{self.lag_at_end:g} records are not committed at the end")
        return said


@dataclass(frozen=True, slots=True)
class Strain:
    """How hard the run was: a soak that was spared proves nothing. Rates are a second."""

    offered: float
    achieved: float
    planned_kills: int
    kills: int

    def failures(self) -> list[str]:
        """What is missing, in words."""
        said = []
        if self.achieved < ACHIEVED_SHARE * self.offered:
            said.append(f"answers came at {self.achieved:.0f} a second of {self.offered:.0f} offered")
        if self.kills < self.planned_kills:
            said.append(f"only {self.kills} of {self.planned_kills} kills were made")
        return said
