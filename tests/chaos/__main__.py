"""``make chaos``: torments a stack of its own and counts what broke."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from benchmarks.command_line import run_command
from benchmarks.report import RESULTS, provenance
from fairlane.logs import configure_logging
from tests.chaos import disk
from tests.chaos.catalogue import FAULTS, SHORT
from tests.chaos.chaos_stack import chaos_stack, usual_disk
from tests.chaos.experiment import Experiment, Outcome
from tests.chaos.fault import Fault
from tests.chaos.table import print_table, write_csv

Say = Callable[[str], None]
ROOT = Path(__file__).parents[2]
WHOLE, PARTIAL = RESULTS / "chaos.csv", RESULTS / "chaos-partial.csv"


@click.command("chaos", epilog="Example:  python -m tests.chaos kill-worker redis-empty")
@click.argument("names", nargs=-1, metavar="[FAULT]...")
@click.option("--list", "listed", is_flag=True, help="Say which faults there are.")
@click.option("--short", is_flag=True, help="Three faults in a minute, as the tests run them.")
@click.option("--state-dir", default=".fairlane/chaos", help="Where the stack keeps data and logs.")
@click.option(
    "--out",
    help=f"The CSV; empty: none. Default: {WHOLE.relative_to(ROOT)}, which the documentation shows, if every fault was "
    f"run to its end; else {PARTIAL.relative_to(ROOT)}, which git ignores.",
)
def command(names: tuple[str, ...], listed: bool, short: bool, state_dir: str, out: str | None) -> int:
    """Torment a stack of its own with each FAULT (default: all); exits 1 if a bar is broken.

    Only a run of all of them replaces the table of the documentation.
    """
    if listed:
        for fault in FAULTS.values():
            click.echo(f"{fault.name:22} {fault.what}")
        return 0
    chosen = [name for text in names for name in text.split(",") if name] or list(FAULTS)
    if unknown := [name for name in chosen if name not in FAULTS]:
        raise click.UsageError(f"no fault {', '.join(unknown)}; --list shows them")
    faults = [SHORT] if short else [FAULTS[name] for name in chosen]
    if any(fault.small_disks for fault in faults):
        disk.with_own_mounts(sys.argv[1:])
    configure_logging("chaos", "chaos", "error")
    # The clients of the load and the probes tell at length what every fault does to them.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - began:5.0f} s] {line}", err=True)

    origin = provenance(" ".join(["python -m tests.chaos", *sys.argv[1:]]))
    outcomes: list[Outcome] = []
    try:
        asyncio.run(_torment(Path(state_dir), faults, outcomes, say))
    finally:
        if outcomes:
            print_table(outcomes, origin)
            file = results_file([outcome.name for outcome in outcomes]) if out is None else out
            if file:
                write_csv(Path(file), outcomes, origin)
                click.echo(f"written: {file}")
    return 1 if any(outcome.broken for outcome in outcomes) else 0


def results_file(ran: Sequence[str]) -> Path:
    """Where the rows of these faults go if nobody says where: what is no whole run replaces none."""
    return WHOLE if set(FAULTS) <= set(ran) else PARTIAL


async def _torment(state_dir: Path, faults: Sequence[Fault], outcomes: list[Outcome], say: Say) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    left = sorted(faults, key=lambda fault: fault.small_disks)
    while left:
        small = left[0].small_disks
        say(f"a fresh stack{' on small disks' if small else ''}")
        async with chaos_stack(state_dir, disk.small_disks if small else usual_disk) as stack:
            experiment = Experiment(stack, say)
            try:
                await experiment.start()
                if faults != [SHORT]:
                    await experiment.warm_up()
                sound = True
                # What is broken would break what comes after it.
                while left and sound and left[0].small_disks == small:
                    outcome = await experiment.run(left.pop(0))
                    outcomes.append(outcome)
                    sound = not outcome.broken
                    for line in outcome.broken:
                        say(f"{outcome.name}: BROKEN: {line}")
                    say(f"{outcome.name}: {'held' if sound else 'broken'} in {outcome.seconds:.0f} s")
                if sound:
                    outcomes.append(await experiment.whole())
            finally:
                await experiment.stop()


if __name__ == "__main__":
    sys.exit(run_command(command))
