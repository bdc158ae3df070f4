"""Whether something grew: samples over time held against a tolerance, and what must be true at the end. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from benchmarks.trend import Line, low_water, trend


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

    Load only adds to a series ``of_load``, so its low-water marks are judged: a leak lifts each of them by all that
    leaked. And it may grow by what their scatter makes of a slope, but never by more than :data:`SCATTER_SHARE`.
    """

    share: float
    least: float
    of_load: bool = False


TOLERANCES: Mapping[str, Tolerance] = {
    "memory, MB": Tolerance(0.10, 10),
    "handles": Tolerance(0.10, 8, of_load=True),
    "threads": Tolerance(0.10, 4),
    "Redis keys": Tolerance(0.05, 100),
    "Redis memory, MB": Tolerance(0.10, 2),
    "lag, records": Tolerance(0.0, 1_000, of_load=True),
}
"""Of the slope times the time after the warm-up: relative, and what is always allowed. A call under way is a handle on
both of its ends. The sinks get four records for a request and insert in batches, so at 750 requests a second their lag
goes up and down between 1,000 and 15,000 records; 1,000 is what comes in a third of a second.
"""
PERIOD_S, LIFE_PERIOD_S, PERIODS_LEAST = 30.0, 15.0, 24
"""A low-water mark is the least of a period between two kills, of half of one within a life, or of a shorter one where
a run has fewer."""
SCATTER_SHARE = 0.5
"""Of the median of the series."""
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


def growths(samples: Sequence[Sample], warm_up_s: float) -> list[Growth]:
    """Each series of :data:`TOLERANCES` from the warm-up on.

    A process that is killed begins anew, and so hides what the one before had leaked. So the slope is taken twice, over
    all, and over pairs of one life only without the first :data:`SETTLED_AFTER_S` of it; what exceeds its allowance by
    more counts. A series with fewer than :data:`SAMPLES_LEAST` samples or low-water marks does not hold.
    """
    found = []
    ordered = sorted((s for s in samples if s.series in TOLERANCES), key=lambda s: (s.series, s.of, s.second))
    for (series, of), group in groupby(ordered, key=lambda s: (s.series, s.of)):
        whole = list(group)
        judged: Line = [(sample.second, sample.value) for sample in whole if sample.second >= warm_up_s]
        median = statistics.median([value for _, value in judged]) if judged else math.nan
        if series == "memory, MB" and of in CEILINGS_MB:
            most = max((value for _, value in judged), default=math.inf)
            found.append(Growth(series, of, median, most, CEILINGS_MB[of]))
            continue
        took_s = judged[-1][0] - judged[0][0] if judged else 0.0
        lives = _settled(whole, warm_up_s)
        if TOLERANCES[series].of_load and took_s:
            shortest_s = took_s / PERIODS_LEAST
            judged = low_water(judged, min(PERIOD_S, shortest_s))
            lives = [low_water(life, min(LIFE_PERIOD_S, shortest_s)) for life in lives]
        over_all = _growth(series, of, median, took_s, [judged], SCATTER_SHARE * median)
        # Short lives are far from the whole time, so their scatter is large: what it explains is no growth at all.
        within = _growth(series, of, median, took_s, lives, math.inf) if _enough(lives) else over_all
        found.append(max(over_all, within, key=lambda growth: (growth.grew - growth.allowed, growth.grew)))
    return found


def _enough(lives: Sequence[Line]) -> bool:
    return sum(map(len, lives)) >= SAMPLES_LEAST


def _growth(series: str, of: str, median: float, took_s: float, lives: Sequence[Line], scatter_most: float) -> Growth:
    tolerance = TOLERANCES[series]
    if not _enough(lives):
        return Growth(series, of, median, math.inf, tolerance.least)
    found = trend(lives)
    allowed = max(tolerance.least, tolerance.share * median)
    if tolerance.of_load:
        allowed = max(allowed, min(found.scatter * took_s, scatter_most))
    return Growth(series, of, median, found.slope * took_s, allowed)


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


def _settled(samples: Sequence[Sample], warm_up_s: float) -> list[Line]:
    """What is settled of each life, after the warm-up. The first one was there before the load."""
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.life, []).append(sample)
    begins = [0.0, *(life[0].second + SETTLED_AFTER_S for life in list(lives.values())[1:])]
    return [
        [(s.second, s.value) for s in life if s.second >= max(begin, warm_up_s)]
        for begin, life in zip(begins, lives.values(), strict=True)
    ]


def kept(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The processes, in words, that have more handles at rest after the load than before it, beyond what is always
    allowed: connections come and go with the calls, so what a few leak shows best when there are none.
    """
    most = TOLERANCES["handles"].least
    return [
        f"{name} holds {after[name]} handles at rest, {handles} before the load" if name in after else f"{name} is gone"
        for name, handles in before.items()
        if name not in after or after[name] - handles > most
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
