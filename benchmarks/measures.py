"""What a run measured: plain rows, and the bars they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.kills import Kills
from fairlane.streams import topology


class Measure(NamedTuple):
    """One figure. ``case`` is the load or the part it belongs to."""

    case: str
    name: str
    value: float
    unit: str


@dataclass(slots=True)
class Measures:
    """The figures of a run. ``loads`` are what the load generator returned, for the plots."""

    rows: list[Measure] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: str, unit: str, **values: float) -> None:
        """Note figures of one unit."""
        self.rows += [Measure(case, name, float(value), unit) for name, value in values.items()]

    def get(self, case: str, name: str) -> float | None:
        """A figure; None where it was not measured. Of several with one name, the last."""
        return next((row.value for row in reversed(self.rows) if (row.case, row.name) == (case, name)), None)

    def largest(self, name: str, prefixes: Sequence[str]) -> float | None:
        """The largest figure of that name among cases that begin with one of the prefixes."""
        values = [row.value for row in self.rows if row.name == name and row.case.startswith(tuple(prefixes))]
        return max(values, default=None)


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of the table. ``first`` must hold, ``goal`` is where we want to be; ``more`` says which way is better."""

    what: str
    unit: str
    first: float | None
    goal: float | None
    measured: float | None
    more: bool = False

    @property
    def verdict(self) -> str:
        """``goal``, ``first bar``, ``missed``, ``ahead`` (a goal that has no first bar) or ``not measured``."""
        if self.measured is None:
            return "not measured"

        def holds(bar: float | None) -> bool:
            assert self.measured is not None
            return bar is not None and (self.measured >= bar if self.more else self.measured <= bar)

        if holds(self.goal):
            return "goal"
        # A goal without a first bar is not missed yet: it is still ahead.
        return "first bar" if holds(self.first) else "missed" if self.first is not None else "ahead"


def bars(measures: Measures, kills: Kills | None) -> list[Bar]:
    """The table, filled with what was measured here and by ``make chaos``."""
    get = measures.get
    broken, recovery_s = (kills.broken, kills.recovery_s) if kills is not None else (None, None)
    stages = ("memory: gate", "memory: dispatcher", "memory: worker", "memory: settle", "memory: sinks")
    gate = get(f"gate on {topology.GATE.engine}", "records per CPU second")
    return [
        Bar("whole chain, highest rate held", "requests/s", 1000, 2500, get("chain", "sustained"), more=True),
        Bar("added latency at 100/s, p50", "ms", 15, 7, get("100/s", "added p50")),
        Bar("added latency at 100/s, p99", "ms", 60, 25, get("100/s", "added p99")),
        Bar("added latency at 1,000/s, p99", "ms", 250, 100, get("1000/s", "added p99")),
        Bar("gate, one core", "requests/s", 3000, 6000, gate, more=True),
        Bar("sink, one core", "rows/s", 20_000, 50_000, get("sink", "rows per CPU second"), more=True),
        Bar("routing decision, p99", "ms", 1, 0.2, get("routing", "p99")),
        Bar("memory of a stage's process, largest", "MB", 200, 120, measures.largest("resident", stages)),
        Bar("import of the command line", "s", 0.6, 0.3, get("startup", "import")),
        Bar("`up` to first result, warm cache", "s", 15, 8, get("startup", "first result")),
        Bar("light tenants' p99 wait under a flood", "ms", 3000, None, get("flood", "light queue p99")),
        Bar("the same against alone, at most", "times", None, 1.2, get("flood", "light queue p99 ratio")),
        Bar("shares at weights 4:1 over two dispatchers: off 4 by", "", 0.2, 0.05, get("shares", "distance from 4")),
        Bar("kill -9: lost + twice + over budget + log − ClickHouse", "", 0, None, broken),
        Bar("recovery after kill -9 of any stage", "s", 20, 8, recovery_s),
    ]


def median_of(values: Sequence[float]) -> float:
    """The median; 0 for none."""
    return statistics.median(values) if values else 0.0
