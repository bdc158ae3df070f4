"""``make bench``: measures the chain, its parts and its start, and holds the figures against the bars."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable

import click

from benchmarks.chain import measure_chain
from benchmarks.command_line import run_command
from benchmarks.gate import measure_gate
from benchmarks.kills import read_kills
from benchmarks.measures import Measures, bars
from benchmarks.own_stack import bench_settings, own_stack, running_stack
from benchmarks.report import RESULTS, print_bars, provenance, write_results
from benchmarks.routing import measure_routing
from benchmarks.shares import measure_shares
from benchmarks.sink import measure_sink
from benchmarks.startup import measure_startup
from fairlane.logs import configure_logging

PARTS = ("routing", "gate", "startup", "chain", "sink")
BUSY_LOAD = 1.0
"""A load average above this before the run disturbs every figure."""


@click.command("bench", epilog="Example:  python -m benchmarks --quick chain")
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--quick", is_flag=True, help="A minute instead of fifteen, with fewer cases and shorter ones.")
@click.option("--name", default="", help="Name of the files under benchmarks/results.  [default: bench or bench-quick]")
@click.option("--engines", default="", help="Run the chain with FAIRLANE_STAGE_ENGINES set to this.")
def command(parts: tuple[str, ...], quick: bool, name: str, engines: str) -> int:
    """Measure PARTS (default: all) of Fairlane on this machine; exits 1 if a first bar is missed."""
    configure_logging("bench", "bench", "error")
    began, chosen = time.monotonic(), parts or PARTS
    origin = provenance(" ".join(["python -m benchmarks", *sys.argv[1:]]))
    if (load := os.getloadavg()[0]) > BUSY_LOAD:
        click.echo(f"warning: this machine is busy (load average {load:.1f}); the figures will be worse", err=True)
        origin.append(("load average before", f"{load:.1f}"))

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.0f} s] {line}", err=True)

    measures = Measures()
    if "routing" in chosen:
        measure_routing(measures, say)
    if "gate" in chosen:
        measure_gate(measures, say, records=5_000 if quick else 20_000)
    if "startup" in chosen:
        measure_startup(measures, say, ups=1 if quick else 3)
    if "chain" in chosen or "sink" in chosen:
        _chain(measures, say, quick=quick, engines=engines, sink="sink" in chosen)
    rows = bars(measures, read_kills(RESULTS / "chaos.csv"))
    written = write_results(measures, rows, origin, name or ("bench-quick" if quick else "bench"))
    print_bars(rows, origin)
    for path in written:
        click.echo(f"written: {path}")
    return 1 if any(row.verdict == "missed" for row in rows) else 0


def _chain(measures: Measures, say: Callable[[str], None], *, quick: bool, engines: str, sink: bool) -> None:
    settings = bench_settings(stage_engines=engines)
    with own_stack(settings) as supervisor:

        async def run() -> None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            async with running_stack(settings, supervisor) as stack:
                await measure_chain(stack, measures, say, quick=quick)
                if sink:
                    await measure_sink(stack, measures, say)
                if not quick:
                    await measure_shares(stack, measures, say)

        asyncio.run(run())


if __name__ == "__main__":
    sys.exit(run_command(command))
