"""``make profile``: where each stage spends its CPU time under load, sampled by py-spy, one stage after the other."""

from __future__ import annotations

import asyncio
import csv
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.cases import Case
from benchmarks.command_line import run_command
from benchmarks.cpu import spent, used
from benchmarks.own_stack import BenchStack, bench_settings, own_stack, running_stack
from benchmarks.report import RESULTS, provenance, write_page
from benchmarks.stacks import Stacks, flame_graph, read_folded
from fairlane.errors import Fatal
from fairlane.logs import configure_logging

STAGES = ("gate", "dispatcher", "worker", "settle", "sinks", "simulator")
SAMPLES_PER_S = 250
"""Only threads that hold the interpreter's lock are sampled: a sample is then 4 ms of Python."""
OUTSIDE = "outside of Python: system calls, C code without the lock"
WARM_UP = Case("warm-up", 400, 15)
FIRST_AFTER_S = 3.0
TOP = 30


@click.command("profile", epilog="Example:  python -m benchmarks.profile --rate 600 gate")
@click.argument("processes", nargs=-1, type=click.Choice(STAGES))
@click.option("--rate", default=600.0, show_default=True, help="Requests per second meanwhile.")
@click.option("--seconds", default=10.0, show_default=True, help="How long each process is sampled.")
@click.option("--engines", default="", help="FAIRLANE_STAGE_ENGINES of the stack.")
def command(processes: tuple[str, ...], rate: float, seconds: float, engines: str) -> int:
    """Sample PROCESSES (default: all stages) and write a flame graph of each to benchmarks/results."""
    configure_logging("profile", "profile", "error")
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        raise Fatal("py-spy is not installed: pip install py-spy")
    chosen = processes or STAGES
    settings = bench_settings(stage_engines=engines)
    with own_stack(settings) as supervisor:

        async def run() -> dict[str, tuple[Stacks, float]]:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            async with running_stack(settings, supervisor) as stack:
                before = used(stack.pids())
                await stack.offer(WARM_UP)
                busy = spent(before, used(stack.pids()))
                # Of several processes of a stage the one that does the work: a standby only waits.
                names = [max((n for n in busy if n.startswith(stage)), key=busy.__getitem__) for stage in chosen]
                return {name: await _sample(stack, spy, name, rate, seconds) for name in names}

        found = asyncio.run(run())
    _write(found, provenance(" ".join(["python -m benchmarks.profile", *sys.argv[1:]])))
    return 0


async def _sample(stack: BenchStack, spy: str, name: str, rate: float, seconds: float) -> tuple[Stacks, float]:
    """Stacks of one process under load, and its CPU microseconds per request."""
    pid = stack.pids()[name]
    out = stack.state_dir / f"{name}.folded"
    out.unlink(missing_ok=True)
    load = asyncio.create_task(stack.offer(Case(f"profile-{name}", rate, seconds + 2 * FIRST_AFTER_S)))
    try:
        await asyncio.sleep(FIRST_AFTER_S)
        before = used({name: pid})
        command_line = [spy, "record", "--gil", "--pid", str(pid), "--duration", str(max(1, round(seconds))),
                        "--rate", str(SAMPLES_PER_S), "--format", "raw", "--output", str(out)]  # fmt: skip
        await _run(command_line, seconds)
        cpu_s = spent(before, used({name: pid}))[name]
        # Not what was offered: a chain that fell behind did less meanwhile.
        rate = min(rate, (await load)["achieved_per_s"])
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    us_per_request = cpu_s / (rate * seconds) * 1e6
    click.echo(f"{name}: {us_per_request:.0f} µs of CPU a request at {rate:g}/s", err=True)
    with out.open(encoding="utf-8") as lines:
        stacks = read_folded(lines)
    outside_s = max(0.0, cpu_s - stacks.samples / SAMPLES_PER_S)
    stacks.seen[(OUTSIDE,)] += round(outside_s * SAMPLES_PER_S)
    return stacks, us_per_request


async def _run(command_line: list[str], seconds: float) -> None:
    spy = await asyncio.create_subprocess_exec(
        *command_line, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + 30):
            _, said = await spy.communicate()
    except TimeoutError:
        raise Fatal(f"py-spy did not end {seconds + 30:.0f} s after its start") from None
    finally:
        if spy.returncode is None:
            spy.kill()
            await spy.wait()
    if spy.returncode != 0:
        text = said.decode(errors="replace").strip()[-500:]
        raise Fatal(f"py-spy: {text} (it may need root, or kernel.yama.ptrace_scope=0)")


def _write(found: Mapping[str, tuple[Stacks, float]], origin: list[tuple[str, str]]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    table = RESULTS / "profile.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in origin)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("process", "function", "own_us_per_request", "total_us_per_request"))
        for name, (stacks, us) in found.items():
            click.echo(f"\n{name}: {us:.0f} µs a request, by function ({stacks.samples} samples)")
            for cost in stacks.costs(TOP):
                writer.writerow((name, cost.function, f"{cost.own * us:.2f}", f"{cost.total * us:.2f}"))
            for cost in (*stacks.costs(TOP // 2), *stacks.totals(TOP // 2, within="fairlane/")):
                click.echo(f"  {cost.own * us:7.1f} own {cost.total * us:7.1f} total  {cost.function}")
    page = RESULTS / "profile.html"
    figures = [flame_graph(stacks, name, us) for name, (stacks, us) in found.items()]
    written = [table, page] if write_page(page, figures, origin) else [table]
    for path in written:
        click.echo(f"written: {path}")


if __name__ == "__main__":
    sys.exit(run_command(command))
