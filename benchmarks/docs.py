"""``python -m benchmarks.docs``: writes the figures of docs/performance.md from the tables under benchmarks/results."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.kills import Kills, read_kills
from benchmarks.measures import Measure, Measures, bars
from benchmarks.report import RESULTS, number
from benchmarks.result_table import Table, read_table
from benchmarks.soak_verdict import CEILINGS_MB, TOLERANCES

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
TABLES = ("bench.csv", "bench-quick.csv")
"""The first that is there: the short run fills in until the long one was made."""
LOADS = ("100/s", "500/s", "1000/s", "300/s of 16 KB", "500/s of 1,000 tenants")
NOT_MEASURED = "Not measured yet: `make bench`, then `make docs`."
PARTS_OF_THE_STACK = ("gate", "dispatcher", "worker", "settle", "sinks", "kafka", "redis", "clickhouse", "simulator")


def measures_of(table: Table) -> Measures:
    """What a benchmark measured; its lines about bars are left out, for they are made from the others."""
    rows = [row for row in table.rows if row[0] != "bar"]
    return Measures([Measure(case, name, float(value), unit) for case, name, value, unit in rows])


def origin_part(table: Table) -> str:
    """Where all figures of the page come from."""
    keys = ("commit", "made", "machine", "command", "load average before")
    told = "; ".join(f"{key}: {table.origin[key]}" for key in keys if key in table.origin)
    if "load average before" in table.origin:
        told += " (**other programs were running: these figures are worse than the chain's**)"
    return f"From [`{table.name}`](../benchmarks/results/{table.name}). {told}."


def bars_part(measures: Measures, kills: Kills | None) -> str:
    """Each bar with its goal and what was measured."""
    lines = ["| what | unit | first bar | goal | measured | |", "|---|---|---|---|---|---|"]
    for bar in bars(measures, kills):
        sign = "≥" if bar.more else "≤"
        first, goal = (f"{sign} {number(value)}" if value is not None else "" for value in (bar.first, bar.goal))
        measured = number(bar.measured) if bar.measured is not None else ""
        lines.append(f"| {bar.what} | {bar.unit} | {first} | {goal} | {measured} | {bar.verdict} |")
    return "\n".join(lines)


def loads_part(measures: Measures) -> str:
    """Offered and achieved rates with the added latency of each load."""
    lines = ["| load | offered/s | achieved/s | p50 ms | p95 ms | p99 ms | max ms |", "|---|---|---|---|---|---|---|"]
    for case in LOADS:
        names = ("offered", "achieved", "added p50", "added p95", "added p99", "added max")
        values = [measures.get(case, name) for name in names]
        if values[0] is not None:
            lines.append(f"| {case} | " + " | ".join("" if v is None else number(v) for v in values) + " |")
    return "\n".join(lines)


def cpu_part(measures: Measures) -> str:
    """Microseconds of CPU a request of each part, all its processes together."""
    cases = [case for case in LOADS if measures.get(case, "cpu of the stack") is not None]
    lines = ["| part | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for part in PARTS_OF_THE_STACK:
        cells = [number(_cpu(measures, case, part)) for case in cases]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    totals = [number(measures.get(case, "cpu of the stack") or 0.0) for case in cases]
    lines.append("| **all** | " + " | ".join(totals) + " |")
    return "\n".join(lines)


def gate_part(measures: Measures) -> str:
    """The gate alone on both engines."""
    lines = ["| engine | CPU a request, µs | requests a CPU second |", "|---|---|---|"]
    for engine in ("loop", "faust"):
        cpu, rate = (measures.get(f"gate on {engine}", name) for name in ("cpu", "records per CPU second"))
        if cpu is not None and rate is not None:
            lines.append(f"| {engine} | {number(cpu)} | {number(rate)} |")
    return "\n".join(lines)


def soak_part(results: Path) -> str:
    """What the last soak concluded."""
    if not (results / "soak.csv").exists():
        return "Not run yet: `make soak`."
    table = read_table(results / "soak.csv")
    figures: dict[tuple[str, str], dict[str, float]] = {}
    for _, name, of, value, _ in table.rows:
        kind, _, series = name.partition(": ")
        if kind in ("growth", "allowed"):
            figures.setdefault((series, of), {})[kind] = float(value)
    origin = table.origin
    run = f"{origin['load']}, {origin['kills']} kills, answers kept for {origin['answers kept']}"
    head = ["| series | nearest to its limit | growth over the run | allowed | |", "|---|---|---|---|---|"]
    lines = [f"{run}, commit {origin['commit']}.", "", *head]
    for series in TOLERANCES:
        rows = [(told["growth"], told["allowed"], of) for (name, of), told in figures.items() if name == series]
        if series == "memory, MB":
            rows = [row for row in rows if row[2] not in CEILINGS_MB]
        if rows:
            grew, allowed, of = max(rows, key=lambda row: (row[0] / row[1], row[2]))
            verdict = "held" if grew <= allowed else "**grew**"
            lines.append(f"| {series} | {of} | {number(grew)} | {number(allowed)} | {verdict} |")
    at_rest = {(row[0], row[2]): int(row[3]) for row in table.rows if row[1] == "handles at rest"}
    more = [(at_rest["end", of] - before, of) for (_, of), before in at_rest.items() if ("end", of) in at_rest]
    if more:
        most, of = max(more)
        lines += ["", f"Handles at rest after the load against before it: at most {most:+d}, of {of}."]
    custody = ", ".join(f"{row[2].replace('_', ' ')} {row[3]}" for row in table.rows if row[1] == "custody")
    return "\n".join([*lines, "", f"At the end: {custody}."]) + picture(results / "soak.svg", "Soak")


def parts(results: Path = RESULTS) -> Mapping[str, Callable[[], str]]:
    """The generated parts of the page by name; each says so where nothing was measured yet."""
    path = next((results / name for name in TABLES if (results / name).exists()), None)
    if path is None:
        absent: dict[str, Callable[[], str]] = dict.fromkeys(
            ("origin", "bars", "loads", "cpu", "gate"), lambda: NOT_MEASURED
        )
        return absent | {"soak": lambda: soak_part(results)}
    table = read_table(path)
    measures = measures_of(table)
    return {
        "origin": lambda: origin_part(table),
        "bars": lambda: bars_part(measures, read_kills(results / "chaos.csv")),
        "loads": lambda: loads_part(measures) + picture(path.with_suffix(".svg"), "Added latency of each load"),
        "cpu": lambda: cpu_part(measures),
        "gate": lambda: gate_part(measures),
        "soak": lambda: soak_part(results),
    }


def picture(path: Path, meaning: str) -> str:
    """A reference to a plot if it is there."""
    return f"\n\n![{meaning}](../benchmarks/results/{path.name})" if path.exists() else ""


def _cpu(measures: Measures, case: str, part: str) -> float:
    process = re.compile(re.escape(f"{case}: {part}") + r"(-\d+)?")
    return sum(row.value for row in measures.rows if row.name == "cpu" and process.fullmatch(row.case))


def main() -> int:
    """Renew the page."""
    from tools.docs import renewed

    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
