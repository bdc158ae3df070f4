"""What is left of a run: a table on the terminal, every figure as CSV, and plots in one HTML file."""

from __future__ import annotations

import csv
import math
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cpu import machine
from benchmarks.drawing import Panel, draw
from benchmarks.measures import Bar, Measures

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("aiokafka", "faust-streaming", "pydantic", "redis", "aiohttp", "clickhouse-connect", "chdb")
COLORS = {"goal": "green", "first bar": "cyan", "missed": "red", "ahead": "yellow", "not measured": "bright_black"}


def provenance(command: str) -> list[tuple[str, str]]:
    """Where figures come from: commit, machine, versions and command."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return [
        ("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("commit", commit_of(Path(__file__).parents[1])),
        ("machine", f"{platform.system()} {platform.machine()}, {machine()}"),
        ("versions", f"Python {platform.python_version()}, {libraries}"),
        ("command", command),
    ]


def commit_of(root: Path) -> str:
    """The commit of a checkout, with ``-dirty`` where a tracked file differs that is none of ``benchmarks/results``:
    what was measured before is no part of what is measured.
    """

    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return ran.stdout.strip()

    commit = git("describe", "--always")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    return (commit or "unknown") + ("-dirty" if changed else "")


def print_bars(rows: Sequence[Bar], origin: Sequence[tuple[str, str]]) -> None:
    """The table of bars with what was measured."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("what", "unit", "first bar", "goal", "measured", "")
    for bar in rows:
        sign = "≥" if bar.more else "≤"
        cells = [f"{sign} {number(value)}" if value is not None else "" for value in (bar.first, bar.goal)]
        measured = number(bar.measured) if bar.measured is not None else ""
        color = COLORS[bar.verdict]
        table.add_row(bar.what, bar.unit, *cells, measured, f"[{color}]{bar.verdict}[/{color}]")
    console.print(table)
    for name, value in origin:
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def write_results(
    measures: Measures, rows: Sequence[Bar], origin: Sequence[tuple[str, str]], name: str, out: Path = RESULTS
) -> list[Path]:
    """Write ``<name>.csv``, and ``<name>.html`` where plotly is installed; returns what was written."""
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{name}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in origin)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("case", "name", "value", "unit"))
        for bar in rows:
            if bar.measured is not None:
                writer.writerow(("bar", f"{bar.what}: {bar.verdict}", f"{bar.measured:.6g}", bar.unit))
        writer.writerows((row.case, row.name, f"{row.value:.6g}", row.unit) for row in measures.rows)
    plot, page = out / f"{name}.svg", out / f"{name}.html"
    written = [table]
    if measures.loads:
        draw(plot, _panels(measures), " · ".join(f"{key}: {value}" for key, value in origin[:3]))
        written.append(plot)
    return [*written, page] if write_page(page, _figures(measures), origin) else written


def _panels(measures: Measures) -> list[Panel]:
    """Latency of each load, and the course of the longest one."""
    latency = {
        load["case"]["name"]: sorted((float(percent), max(0.1, value)) for percent, value in load["added_ms"].items())
        for load in measures.loads
    }
    panels = [
        Panel("added latency: result time − due time − model time", "percent of requests", "ms", latency, log_y=True)
    ]
    longest = max(measures.loads, key=lambda load: load["case"]["seconds"])
    title = f"{longest['case']['name']}, second by second"
    answers = [(float(second["second"]), float(second["answers"])) for second in longest["seconds"]]
    panels.append(Panel(title, "second", "answers", {"answers": answers}))
    course = {
        f"p{percent}": [(float(each["second"]), each[percent]) for each in longest["seconds"] if percent in each]
        for percent in ("50", "99")
    }
    panels.append(Panel(f"{title}: added latency", "second", "ms", course))
    return panels


def write_page(path: Path, figures: Sequence[Figure], origin: Sequence[tuple[str, str]]) -> bool:
    """Figures in one file that needs nothing else; False where plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return False
    from html import escape

    parts = [figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures]
    foot = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in origin)
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>{escape(path.stem)}</title><script>{get_plotlyjs()}</script>"
        f"{''.join(parts)}<dl>{foot}</dl>",
        encoding="utf-8",
    )
    return True


def _figures(measures: Measures) -> list[Figure]:
    try:
        import plotly.graph_objects as go
    except ImportError:
        return []
    figures = []
    latency = go.Figure(layout={"title": "Added latency: result time − due time − model time", "height": 520})
    latency.update_xaxes(title="percent of requests")
    latency.update_yaxes(title="ms", type="log")
    for load in measures.loads:
        points = sorted((float(percent), value) for percent, value in load["added_ms"].items())
        latency.add_scatter(x=[p for p, _ in points], y=[max(v, 0.1) for _, v in points], name=load["case"]["name"])
    figures.append(latency)
    longest = max(measures.loads, key=lambda load: load["case"]["seconds"], default=None)
    if longest is not None:
        figures.append(_course(go, longest))
    figures.append(_cpu(go, measures))
    return figures


def _course(go: Any, load: dict[str, Any]) -> Figure:
    seconds = [second["second"] for second in load["seconds"]]
    course = go.Figure(layout={"title": f"{load['case']['name']}, second by second", "height": 420})
    course.add_bar(x=seconds, y=[second["answers"] for second in load["seconds"]], name="answers", opacity=0.4)
    for percent in ("50", "99"):
        values = [second.get(percent) for second in load["seconds"]]
        course.add_scatter(x=seconds, y=values, name=f"added p{percent}, ms", yaxis="y2")
    course.update_layout(yaxis2={"overlaying": "y", "side": "right", "title": "ms"}, yaxis={"title": "answers/s"})
    course.update_xaxes(title="second")
    return course


def _cpu(go: Any, measures: Measures) -> Figure:
    shares: dict[str, dict[str, float]] = {}
    for row in measures.rows:
        if row.name == "cpu" and ": " in row.case:
            case, _, process = row.case.rpartition(": ")
            kind = re.sub(r"-\d+$", "", process)
            shares.setdefault(kind, {})[case] = shares.get(kind, {}).get(case, 0.0) + row.value
    figure = go.Figure(layout={"title": "CPU of each part per request", "barmode": "stack", "height": 520})
    for kind, by_case in shares.items():
        figure.add_bar(x=list(by_case), y=list(by_case.values()), name=kind)
    figure.update_yaxes(title="µs")
    return figure


def number(value: float) -> str:
    """A figure with as many digits as are worth reading."""
    if math.isnan(value) or math.isinf(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
