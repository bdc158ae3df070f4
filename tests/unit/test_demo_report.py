"""The report is one file that shows the verdict first and needs nothing from outside."""

from __future__ import annotations

import json
import re
from dataclasses import replace

from fairlane.devstack.demo.facts import Terminal
from fairlane.devstack.demo.report import Report, Table, render
from fairlane.devstack.demo.report_figures import Course, figures
from fairlane.devstack.demo.verdict import Check

GOOD = Check("Everything holds", "0 lost", "0 lost", passed=True)
BAD = Check("Money agrees", "equal sums", "1 / 2", passed=False, detail="acme: <b>off</b>")


def terminal(tenant: str, at_s: float, queue_ms: float, tokens: int = 10, status: str = "succeeded") -> Terminal:
    received = round(at_s * 1000)
    return Terminal(
        tenant_id=tenant, request_id=f"r-{at_s}", status=status, error_code=None, cost_nano_usd=1_000_000,
        input_tokens=tokens, output_tokens=0, queue_ms=queue_ms, model_ms=100.0, added_ms=5.0,
        received_ms=received, completed_ms=received + 200,
    )  # fmt: skip


COURSE = Course(
    [
        terminal("flooder", 0.1, 2000),
        terminal("light", 0.2, 20, tokens=30),
        terminal("flooder", 1.3, 0, status="rejected"),
    ],
    ["flooder", "light"], "flooder", started_ms=0, replay_s=2.0,
)  # fmt: skip
TABLE = Table("Per tenant", "SELECT 1 < 2", ["tenant", "requests"], [["light", 1234]])


def page(*checks: Check) -> str:
    return render(Report(checks, COURSE, [TABLE], [("commit", "abc")]), "/* plotly */")


def test_the_verdict_stands_before_everything_else_and_counts_failures() -> None:
    shown = page(GOOD, BAD)

    assert "1 of 2 checks failed" in shown
    assert shown.index("1 of 2 checks failed") < shown.index("Queue wait")
    assert shown.index(BAD.name) < shown.index(GOOD.name)
    assert "All 1 checks hold" in page(GOOD)


def test_text_from_a_run_cannot_become_markup() -> None:
    shown = page(BAD)

    assert "<b>off</b>" not in shown
    assert "&lt;b&gt;off&lt;/b&gt;" in shown
    named = replace(COURSE, terminals=[terminal("</script><i>", 0.1, 1)], tenants=["flooder", "</script><i>"])
    assert "</script><i>" not in render(Report([GOOD], named, [], []), "")


def test_the_page_loads_nothing_from_elsewhere() -> None:
    shown = page(GOOD)

    assert re.findall(r"""(?:src|href)\s*=|@import|url\(""", shown) == []
    assert shown.count("/* plotly */") == 1


def test_every_plot_has_its_place_in_the_page() -> None:
    shown = page(GOOD)

    assert set(re.findall(r'id="plot-(\w+)"', shown)) == set(figures(COURSE))


def test_tables_and_provenance_are_shown_as_given() -> None:
    shown = page(GOOD)

    assert '<td>light</td><td class="number">1,234</td>' in shown
    assert "SELECT 1 &lt; 2" in shown
    assert "<dt>commit</dt><dd>abc</dd>" in shown


def test_figures_are_json_and_hold_what_happened() -> None:
    made = json.loads(json.dumps(figures(COURSE)))

    waits = {trace["name"]: trace["y"] for trace in made["wait"]["data"] if trace["mode"] == "markers"}
    assert waits == {"flooder": [2000], "light": [20]}
    shares = {trace["name"]: trace["y"][0] for trace in made["share"]["data"]}
    assert shares == {"flooder": 10, "light": 30}
    lines = {trace["name"]: sum(trace["y"]) for trace in made["throughput"]["data"]}
    assert lines == {"asked": 3, "succeeded": 2, "refused": 1}
    assert made["cost"]["data"][0]["x"] == [0.001, 0.002]
    queue = next(trace for trace in made["phases"]["data"] if trace["name"] == "queue")
    assert dict(zip(queue["y"], queue["x"], strict=True)) == {"light": 20, "flooder": 2000}


def test_a_tenant_has_the_same_colour_in_every_plot() -> None:
    made = figures(COURSE)

    lines = {trace["name"]: trace["line"]["color"] for trace in made["wait"]["data"] if trace["mode"] == "lines"}
    areas = {trace["name"]: trace["fillcolor"] for trace in made["share"]["data"]}
    bars = dict(zip(made["cost"]["data"][0]["y"], made["cost"]["data"][0]["marker"]["color"], strict=True))
    assert lines == areas == bars


def test_a_run_without_any_result_still_gives_a_page() -> None:
    empty = Course([], ["flooder", "light"], "flooder", started_ms=0, replay_s=2.0)

    assert "All 1 checks hold" in render(Report([GOOD], empty, [], []), "")
