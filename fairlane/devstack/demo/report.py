"""The demo's report: one HTML file that needs nothing else, verdict first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fairlane.devstack.demo.facts import percentile
from fairlane.devstack.demo.report_figures import Course, figures
from fairlane.devstack.demo.report_style import PAGE, SCRIPT, STYLE
from fairlane.devstack.demo.verdict import Check, passed

TITLES = {
    "wait": (
        "Queue wait",
        "Each dot is a request, the line the median. The flooder queues behind itself; the others hardly wait.",
    ),
    "share": (
        "Share of service",
        "Completed tokens by tenant. What the light tenants leave over, the flooder may use.",
    ),
    "throughput": (
        "Throughput",
        "Far more is asked than the pool's slots can serve; the cap refuses the excess at once.",
    ),
    "phases": ("Where time went", "The mean successful request: waiting, at the model, and everything Fairlane adds."),
    "cost": ("Cost", "What each tenant is billed, from the price rows in the catalog."),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the SQL gave it. Numbers stand right."""

    title: str
    sql: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Report:
    """What the page shows. ``provenance``: commit, versions, machine, command."""

    checks: Sequence[Check]
    course: Course
    tables: Sequence[Table]
    provenance: Sequence[tuple[str, str]]


def render(report: Report, plotly_js: str) -> str:
    """The page. ``plotly_js`` is the library's source, embedded once."""
    figures_json = json.dumps(figures(report.course), separators=(",", ":")).replace("<", "\\u003c")
    return PAGE.substitute(
        style=STYLE,
        summary=_summary(report),
        verdict=_verdict(report.checks),
        cards=_cards(report),
        wait=_panel("wait", "wide"),
        panels="".join(_panel(name, "") for name in ("share", "throughput", "phases", "cost")),
        tables="".join(_table(table) for table in report.tables),
        provenance="".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.provenance),
        plotly=plotly_js,
        figures=figures_json,
        script=SCRIPT,
    )


def _summary(report: Report) -> str:
    course = report.course
    return escape(
        f"{len(course.terminals):,} requests of a recorded production trace in {course.replay_s:g} seconds, "
        f"{len(course.tenants)} tenants of equal weight. One of them, {course.flooder}, asks for 100 times as much as "
        f"each other."
    )


def _verdict(checks: Sequence[Check]) -> str:
    bad = sum(not check.passed for check in checks)
    headline = f"All {len(checks)} checks hold" if passed(checks) else f"{bad} of {len(checks)} checks failed"
    items = "".join(_check(check) for check in sorted(checks, key=lambda check: check.passed))
    kind = "good" if passed(checks) else "bad"
    return f'<section class="verdict {kind}"><h2>{headline}</h2><ul>{items}</ul></section>'


def _check(check: Check) -> str:
    mark, kind = ("✓", "good") if check.passed else ("✗", "bad")
    expected = "" if check.passed else f"<small>expected {escape(check.expected)}</small>"
    detail = f"<small>{escape(check.detail)}</small>" if check.detail else ""
    return (
        f'<li class="{kind}"><b>{mark}</b><span>{escape(check.name)}{expected}{detail}</span>'
        f"<em>{escape(check.found)}</em></li>"
    )


def _cards(report: Report) -> str:
    course = report.course
    succeeded = [item for item in course.terminals if item.status == "succeeded"]
    cost = sum(item.cost_nano_usd for item in course.terminals)
    flood = percentile([item.queue_ms for item in course.of(course.flooder)], 99)
    light = max(
        (
            percentile([i.queue_ms for i in course.of(tenant)], 99)
            for tenant in course.tenants
            if tenant != course.flooder
        ),
        default=0.0,
    )
    added = percentile([item.added_ms for item in succeeded], 50)
    cards = [
        ("requests", f"{len(course.terminals):,}", f"{len(succeeded):,} succeeded"),
        ("flooder's p99 wait", _time(flood), "waits behind itself"),
        ("others' worst p99 wait", _time(light), "while being flooded"),
        ("added latency", _time(added), "median, beyond queue and model"),
        ("tokens", f"{sum(item.tokens for item in succeeded):,}", "input and output"),
        ("cost", f"${cost / 1e9:,.4f}", "same in log, SQL and Redis" if passed(report.checks) else "see the verdict"),
    ]
    return "".join(
        f'<div class="card"><span>{escape(name)}</span><strong>{escape(value)}</strong>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note in cards
    )


def _panel(name: str, kind: str) -> str:
    title, text = TITLES[name]
    return (
        f'<section class="panel {kind}"><h2>{escape(title)}</h2><p>{escape(text)}</p>'
        f'<div class="plot" id="plot-{name}"></div></section>'
    )


def _table(table: Table) -> str:
    kinds = [' class="number"' if _numeric(table, index) else "" for index in range(len(table.columns))]
    head = "".join(f"<th{kind}>{escape(column)}</th>" for column, kind in zip(table.columns, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{escape(_cell(cell))}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<section class="panel wide"><h2>{escape(table.title)}</h2><div class="scroll"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div><details><summary>the SQL</summary><pre>{escape(table.sql)}</pre>"
        f"</details></section>"
    )


def _numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers; amounts of money come as text, so that no digit is lost."""
    return all(
        isinstance(row[column], int | float) or str(row[column]).replace(".", "", 1).isdigit() for row in table.rows
    )


def _cell(cell: object) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.1f}" if isinstance(cell, float) else str(cell)


def _time(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:,.2f} s"
