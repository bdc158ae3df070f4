"""What ``make chaos`` found under ``kill -9``: two of the bars are about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.result_table import read_table
from fairlane.streams.topology import STAGES

BROKEN = ("lost", "duplicates", "over_budget", "missing_rows", "extra_rows", "clickhouse_minus_log_nano_usd")
"""Columns of chaos.csv in which anything but zero breaks a promise."""
KILLS = ("kill-", "redis-empty")
"""How the faults begin that kill a process."""


@dataclass(frozen=True, slots=True)
class Kills:
    """``broken`` is the sum of :data:`BROKEN` over all kills, ``recovery_s`` the longest after that of a stage."""

    broken: float
    recovery_s: float


def read_kills(path: Path) -> Kills | None:
    """From the table of ``make chaos``; None where there is none, or not every stage was killed in it."""
    if not path.exists():
        return None
    table = read_table(path)
    faults = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    killed = {fault["fault"]: fault for fault in faults if fault["fault"].startswith(KILLS)}
    stages = [f"kill-{stage.name}" for stage in STAGES]
    if not killed.keys() >= set(stages):
        return None
    return Kills(
        sum(abs(float(fault[column])) for fault in killed.values() for column in BROKEN),
        max(float(killed[name]["recovery_s"] or "inf") for name in stages),
    )
