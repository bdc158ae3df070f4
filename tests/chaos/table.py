"""The table on the terminal and the CSV under ``benchmarks/results``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.experiment import Outcome

COLUMNS = (
    "fault",
    "requests",
    "lost",
    "dup",
    "raw dup",
    "over budget",
    "cancelled",
    "left held",
    "Redis−log n$",
    "rows −",
    "rows +",
    "CH n$",
    "succeeded",
    "calls/req",
    "R s",
    "restarts",
    "verdict",
)
WIDTH = 170
"""In pipes, where nobody says how wide a line may be."""


def cells(outcome: Outcome) -> list[str]:
    """One row, as text."""
    counts = outcome.counts
    recovery = "" if outcome.recovery_s is None else f"{outcome.recovery_s:.1f}"
    numbers = (
        counts.requests,
        counts.lost,
        counts.duplicates,
        counts.raw_duplicates,
        counts.over_budget,
        counts.cancelled,
        counts.left_held,
        counts.redis_nano,
        counts.missing_rows,
        counts.extra_rows,
        counts.clickhouse_nano,
    )
    return [
        outcome.name,
        *map(str, numbers),
        f"{counts.succeeded}/{counts.good}",
        f"{counts.calls_per_request:.3f}",
        recovery,
        str(outcome.restarts),
        "broken" if outcome.broken else "held",
    ]


def print_table(outcomes: Sequence[Outcome], origin: Sequence[tuple[str, str]]) -> None:
    """All rows, then what was wrong and where the figures come from."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(*COLUMNS)
    for outcome in outcomes:
        *others, verdict = cells(outcome)
        table.add_row(*others, f"[{'red' if outcome.broken else 'green'}]{verdict}[/]")
    console.print(table)
    for outcome in outcomes:
        for note in outcome.notes:
            console.print(f"{outcome.name}: {note}", markup=False, highlight=False, soft_wrap=True)
        for line in [*outcome.broken, *(outcome.counts.examples if outcome.broken else [])]:
            console.print(f"BROKEN {outcome.name}: {line}", markup=False, highlight=False, soft_wrap=True)
    for name, value in origin:
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def write_csv(path: Path, outcomes: Sequence[Outcome], origin: Sequence[tuple[str, str]]) -> None:
    """The same for machines; the origin stands in comments at the top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in origin)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            (
                "fault",
                "what",
                "requests",
                "lost",
                "duplicates",
                "raw_duplicates",
                "over_budget",
                "fullest_of_cap",
                "cancelled",
                "cancelled_and_called",
                "left_held",
                "redis_minus_log_nano_usd",
                "missing_rows",
                "extra_rows",
                "clickhouse_minus_log_nano_usd",
                "good",
                "succeeded",
                "provider_calls",
                "called_requests",
                "calls_per_request",
                "recovery_s",
                "restarts",
                "baseline_latency_ms",
                "baseline_lag",
                "seconds",
                "verdict",
                "notes",
            )
        )
        for outcome in outcomes:
            counts, usual = outcome.counts, outcome.usual
            writer.writerow(
                (
                    outcome.name,
                    outcome.what,
                    counts.requests,
                    counts.lost,
                    counts.duplicates,
                    counts.raw_duplicates,
                    counts.over_budget,
                    f"{counts.fullest:.2f}",
                    counts.cancelled,
                    counts.cancelled_called,
                    counts.left_held,
                    counts.redis_nano,
                    counts.missing_rows,
                    counts.extra_rows,
                    counts.clickhouse_nano,
                    counts.good,
                    counts.succeeded,
                    counts.calls,
                    counts.called,
                    f"{counts.calls_per_request:.4f}",
                    "" if outcome.recovery_s is None or math.isinf(outcome.recovery_s) else f"{outcome.recovery_s:.2f}",
                    outcome.restarts,
                    f"{usual.latency_s * 1000:.0f}" if usual else "",
                    " ".join(f"{part}={lag:.0f}" for part, lag in usual.lags.items()) if usual else "",
                    f"{outcome.seconds:.0f}",
                    "broken: " + "; ".join(outcome.broken) if outcome.broken else "held",
                    "; ".join(outcome.notes),
                )
            )
