"""``fairlane demo``: everything for a minute on a real trace, watched, checked and reported."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import JSON_OPTION, is_terminal, print_json, print_table

if TYPE_CHECKING:
    from fairlane.devstack.console import ConsoleReport
    from fairlane.devstack.demo.run import DemoOutcome
    from fairlane.devstack.demo.verdict import Check
    from fairlane.devstack.supervisor import Supervisor
    from fairlane.settings import Settings

EXIT_TERMINATED = 143
"""128 + SIGTERM, as shells count."""
REPORT_FILE = "report.html"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What was asked on the command line."""

    seconds: float
    speed: float
    open_report: bool
    as_json: bool
    keep: bool
    out: Path | None


@click.command("demo", epilog="Example:  fairlane demo --seconds 20 --no-open")
@click.option(
    "--seconds", type=click.FloatRange(5, 3600), default=60, show_default=True, help="How long to replay the trace."
)
@click.option(
    "--speed", type=click.FloatRange(0.1, 100), default=20, show_default=True,
    help="How many times faster than recorded; 20 is about 140 requests per second.",
)  # fmt: skip
@click.option("--open/--no-open", "open_report", default=True, help="Open the report, where there is a desktop.")
@click.option("--keep", is_flag=True, help="Leave the stack up afterwards, to look around; Ctrl-C stops it.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write the report.  [default: .fairlane/demo]",
)
@JSON_OPTION
def command(seconds: float, speed: float, open_report: bool, keep: bool, out: Path | None, as_json: bool) -> int:
    """Start the whole stack, replay a recorded trace with five tenants of which one floods, and check the run.

    At the end each promise is compared with the log, ClickHouse and Redis. Exits 1 if one was broken. The stack
    is the demo's own: fresh data, free ports, stopped at the end.
    """
    from fairlane.clock import SystemClock
    from fairlane.devstack.console import ConsoleReport
    from fairlane.devstack.demo.own_stack import demo_settings, prepared
    from fairlane.logs import configure_logging
    from fairlane.settings import load_settings

    began = time.monotonic()
    configure_logging("demo", "demo", "error")
    options = DemoOptions(seconds, speed, open_report and not as_json, as_json, keep, out)
    run = f"demo-{SystemClock().now_ms() // 1000:x}"
    settings = demo_settings(load_settings(), run)
    with ConsoleReport() as report, prepared(settings, report) as supervisor:
        stop = Stop(supervisor.hurry, settings.drain_timeout_ms / 1000)
        try:
            return asyncio.run(_demo(options, settings, run, supervisor, report, began, stop))
        except asyncio.CancelledError:
            if stop.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            return EXIT_TERMINATED


class Stop:
    """What a signal does: the first cancels the run, so that its stack stops in order; the second ends all at once."""

    def __init__(self, hurry: Callable[[], None], drain_s: float) -> None:
        self._hurry = hurry
        self._drain_s = drain_s
        self.signal: int | None = None

    def __call__(self, number: int, cancel: Callable[[], object]) -> None:
        """Take a signal; ``cancel`` cancels the run."""
        if self.signal is not None:
            self._hurry()
            return
        self.signal = number
        click.echo(
            f"stopping; the stages have {self._drain_s:.0f} s to finish or hand back what is in flight. "
            "Once more (Ctrl-C) ends it at once.",
            err=True,
        )
        cancel()


async def _demo(
    options: DemoOptions, settings: Settings, run: str, supervisor: Supervisor, report: ConsoleReport, began: float,
    stop: Stop,
) -> int:  # fmt: skip
    from rich.console import Console

    from fairlane.clock import SystemClock
    from fairlane.devstack.demo.live_view import LiveView
    from fairlane.devstack.demo.own_stack import running
    from fairlane.devstack.demo.run import DemoRun
    from fairlane.devstack.demo.trace import load_trace
    from fairlane.devstack.demo.verdict import judge, passed
    from fairlane.devstack.demo.workload import TENANTS, plan

    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number, this.cancel)
    clock = SystemClock()
    planned = list(plan(load_trace(), seconds=options.seconds, speed=options.speed, run=run))
    flooder = next(tenant.tenant_id for tenant in TENANTS if tenant.floods)
    console = Console(stderr=True)
    async with running(settings, supervisor) as stack:
        report.close()
        demo = DemoRun(
            stack.settings, TENANTS, planned, clock, lambda moment: LiveView(console, moment, flooder), began
        )
        outcome = await _unless_stack_ends(demo.run(), stack.ended)
        checks = judge(outcome.facts)
        path = _write_report(options, Path(settings.state_dir), outcome, checks)
        _show(options, outcome, checks, path)
        if options.keep:
            await _stay(settings.state_dir, stack.ended)
    return 0 if passed(checks) else 1


async def _unless_stack_ends(running: Any, ended: asyncio.Task[None]) -> DemoOutcome:
    from fairlane.errors import Fatal

    task: asyncio.Task[DemoOutcome] = asyncio.create_task(running)
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        ended.result()
        raise Fatal("the stack stopped during the run; its logs are in the state directory")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _stay(state_dir: str, ended: asyncio.Task[None]) -> None:
    click.echo(
        f"\nThe stack stays up. In another terminal: export FAIRLANE_STATE_DIR={state_dir}; fairlane tail decisions\n"
        "Ctrl-C stops it.",
        err=True,
    )
    await asyncio.shield(ended)


def _write_report(options: DemoOptions, state_dir: Path, outcome: DemoOutcome, checks: list[Check]) -> Path | None:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        click.echo("no report was written: install fairlane[report]", err=True)
        return None
    from fairlane.devstack.demo.provenance import provenance
    from fairlane.devstack.demo.report import Report, Table, render
    from fairlane.devstack.demo.report_figures import Course
    from fairlane.devstack.demo.workload import TENANTS

    course = Course(
        outcome.facts.rows, [tenant.tenant_id for tenant in TENANTS], outcome.facts.flooder, outcome.started_ms,
        options.seconds,
    )  # fmt: skip
    tables = [Table(query.title, query.sql, query.columns, rows) for query, rows in outcome.tables]
    foot = provenance(f"fairlane demo --seconds {options.seconds:g} --speed {options.speed:g}", _run_facts(outcome))
    path = (options.out or state_dir) / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(Report(checks, course, tables, foot), get_plotlyjs()), encoding="utf-8")
    return path.resolve()


def _run_facts(outcome: DemoOutcome) -> list[tuple[str, str]]:
    facts = [("sender", f"an open loop, at worst {outcome.latest_s * 1000:.0f} ms behind the trace")]
    if outcome.first_result_s is not None:
        facts.append(("first result", f"{outcome.first_result_s:.1f} s after the command"))
    return facts


def _show(options: DemoOptions, outcome: DemoOutcome, checks: list[Check], path: Path | None) -> None:
    from fairlane.devstack.demo.verdict import passed

    if options.as_json:
        print_json({
            "passed": passed(checks),
            "checks": [asdict(check) for check in checks],
            "tables": {query.title: [dict(zip(query.columns, row, strict=True)) for row in rows]
                       for query, rows in outcome.tables},
            "first_result_s": outcome.first_result_s,
            "report": str(path) if path else None,
        })  # fmt: skip
        return
    for query, rows in outcome.tables:
        print_table(query.columns, rows, title=f"{query.title} (SQL on ClickHouse)")
        click.echo()
    for check in checks:
        mark = click.style("✓", fg="green") if check.passed else click.style("✗", fg="red", bold=True)
        click.echo(f"{mark} {check.name}: {check.found}" + ("" if check.passed else f", expected {check.expected}"))
        if check.detail:
            click.echo(f"    {check.detail}")
    for name, value in _run_facts(outcome):
        click.echo(f"{name}: {value}")
    bad = sum(not check.passed for check in checks)
    verdict = f"{bad} of {len(checks)} checks failed" if bad else f"all {len(checks)} checks hold"
    click.echo(click.style(f"\n{verdict}", bold=True, fg="red" if bad else "green"))
    if path is not None:
        click.echo(f"report: {path}")
        if options.open_report and _has_desktop():
            import webbrowser

            webbrowser.open(path.as_uri())


def _has_desktop() -> bool:
    """Whether opening a browser would show a person something."""
    if os.environ.get("CI") or not is_terminal():
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
