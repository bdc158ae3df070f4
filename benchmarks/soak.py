"""``make soak``: a steady load while a random stage is killed every 30 seconds. Nothing may grow."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from benchmarks.cases import Case
from benchmarks.chain import DRAINED_WITHIN_S, rows_follow
from benchmarks.command_line import run_command
from benchmarks.drawing import Panel, draw
from benchmarks.group_lag import GroupLag, left
from benchmarks.own_stack import BenchStack, bench_settings, own_stack, running_stack
from benchmarks.report import RESULTS, provenance
from benchmarks.soak_samples import EVERY_S, Sampler
from benchmarks.soak_verdict import SAMPLES_LEAST, Custody, Growth, Sample, Strain, growths, kept, unseen
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.errors import Fatal
from fairlane.logs import configure_logging
from fairlane.sinks.connection import ClickHouseConnection

SHARE = 0.6
"""Of the highest rate that the benchmark found to be held."""
KILL_EVERY_S = 30.0
WARM_UP_SHARE = 0.2
REST_S, UNCHANGED_S = 120.0, 20.0
"""A worker closes a connection that had no call for 15 s."""
LEAST_TTL_S, MOST_TTL_S = 20, 120


@click.command("soak", epilog="Example:  python -m benchmarks.soak --minutes 5 --rate 300")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=15.0, show_default=True,
              help="How long requests are sent.")  # fmt: skip
@click.option("--rate", type=float, help=f"Requests per second.  [default: {SHARE:.0%} of what bench.csv says is held]")
@click.option("--seed", default=1, show_default=True, help="Which stages are killed, in which order.")
def command(minutes: float, rate: float | None, seed: int) -> int:
    """Load the chain, kill a stage every 30 s, and judge memory, handles, threads, Redis, lag and custody."""
    configure_logging("soak", "soak", "error")
    case = Case("soak", rate or SHARE * _capacity(), minutes * 60)
    # Answers are kept for a day by default, and Redis grows until the first of them are a day old. Here they are
    # kept for a fraction of the run, so that its plateau comes in time to be seen.
    ttl_s = int(min(MOST_TTL_S, max(LEAST_TTL_S, case.seconds / 10)))
    # An identity lives for its deadline and then its answer's time, so Redis is full after twice the time to live.
    warm_up_s = max(WARM_UP_SHARE * case.seconds, 2.0 * ttl_s)
    if case.seconds - warm_up_s < SAMPLES_LEAST * 2 * EVERY_S:
        raise click.BadParameter(
            f"after a warm-up of {warm_up_s:g} s too little is left to judge", param_hint="--minutes"
        )
    settings = bench_settings(idempotency_ttl_s=ttl_s, default_timeout_ms=ttl_s * 1000)
    origin = provenance(" ".join(["python -m benchmarks.soak", *sys.argv[1:]]))
    origin += [("load", f"{case.rate:g} requests/s for {minutes:g} minutes"), ("answers kept", f"{ttl_s} s"),
               ("seed", str(seed))]  # fmt: skip
    with own_stack(settings) as supervisor:

        async def run() -> _Ran:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            async with running_stack(settings, supervisor) as stack:
                return await _soak(stack, case, random.Random(seed))

        samples, processes, handles, kills, custody, load = asyncio.run(run())
    samples_under_load = [sample for sample in samples if sample.second <= case.seconds]
    found = growths(samples_under_load, warm_up_s)
    origin += [("warm-up not judged", f"{warm_up_s:g} s"), ("kills", str(len(kills)))]
    _write(samples, handles, kills, found, custody, load, origin)
    strain = Strain(load["offered_per_s"], load["achieved_per_s"], len(_kill_times(case)), len(kills))
    broken = [*custody.failures(), *strain.failures(), *kept(handles.before, handles.after)]
    broken += unseen(samples_under_load, case.seconds, processes)
    return _judge(found, broken, custody, load, origin)


def _capacity() -> float:
    table = RESULTS / "bench.csv"
    if table.exists():
        with table.open(encoding="utf-8") as lines:
            rows = [row for row in csv.reader(line for line in lines if not line.startswith("#")) if len(row) == 4]
        held = [float(row[2]) for row in rows if row[:2] == ["chain", "sustained"]]
        if held and held[-1] > 0:
            return held[-1]
    raise Fatal(f"{table} does not say what rate is held: run `make bench` first, or give --rate")


class _AtRest(NamedTuple):
    """The handles of each process before the load, and after it."""

    before: dict[str, int]
    after: dict[str, int]


class _Ran(NamedTuple):
    """A run: its samples, the processes, their handles at rest, the kills, the requests, and the load."""

    samples: list[Sample]
    processes: list[str]
    handles: _AtRest
    kills: list[tuple[float, str]]
    custody: Custody
    load: dict[str, Any]


async def _soak(stack: BenchStack, case: Case, chance: random.Random) -> _Ran:
    reader = KafkaReader(stack.settings.kafka_bootstrap)
    lag = GroupLag(stack.settings, reader)
    sampler = Sampler(stack, lag)
    processes = [process.name for process in sampler.processes()]
    await reader.start()
    await left(lag, DRAINED_WITHIN_S)
    before = sampler.handles()
    kills: list[tuple[float, str]] = []
    began = time.monotonic()
    beside: list[asyncio.Task[None]] = [
        asyncio.create_task(sampler.run()),
        asyncio.create_task(_kill(sampler, chance, began, case, kills)),
    ]
    loading = asyncio.create_task(stack.offer(case))
    try:
        await asyncio.wait([loading, beside[0]], return_when=asyncio.FIRST_COMPLETED)
        if beside[0].done():
            beside[0].result()
        load = await loading
        for task in beside:
            task.cancel()
        for ended in await asyncio.gather(*beside, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        await rows_follow(stack, load)
        custody = await _custody(stack, lag, load)
        after = await _at_rest(sampler)
    finally:
        loading.cancel()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, loading, return_exceptions=True)
        await reader.stop()
    return _Ran(sampler.samples, processes, _AtRest(before, after), kills, custody, load)


async def _kill(
    sampler: Sampler, chance: random.Random, began: float, case: Case, kills: list[tuple[float, str]]
) -> None:
    for at_s in _kill_times(case):
        await asyncio.sleep(max(0.0, began + at_s - time.monotonic()))
        stages = sorted((each for each in sampler.processes() if each.stage), key=lambda each: each.name)
        victim = chance.choice(stages)
        os.kill(victim.identity.pid, signal.SIGKILL)
        kills.append((time.monotonic() - began, victim.name))
        click.echo(f"[{time.monotonic() - began:5.0f} s] kill -9 {victim.name}", err=True)


def _kill_times(case: Case) -> list[float]:
    """Each 30 s of the load but its end, so that there is time to recover."""
    return [KILL_EVERY_S * n for n in range(1, int((case.seconds - KILL_EVERY_S / 2) / KILL_EVERY_S) + 1)]


async def _at_rest(sampler: Sampler) -> dict[str, int]:
    """The handles of each process when none changed for :data:`UNCHANGED_S`, or after :data:`REST_S`."""
    began = changed = time.monotonic()
    after = sampler.handles()
    while time.monotonic() - changed < UNCHANGED_S and time.monotonic() - began < REST_S:
        await asyncio.sleep(1.0)
        if (now := sampler.handles()) != after:
            after, changed = now, time.monotonic()
    return after


async def _custody(stack: BenchStack, lag: GroupLag, load: dict[str, Any]) -> Custody:
    behind = await left(lag, DRAINED_WITHIN_S)
    connection = ClickHouseConnection(stack.settings.clickhouse_url)
    try:
        ((rows, distinct),) = await connection.rows(
            f"SELECT count(), uniqExact(request_id) FROM {stack.settings.clickhouse_database}.requests "  # noqa: S608 - our own names
            f"WHERE startsWith(request_id, '{load['run']}-')"
        )
    finally:
        await connection.close()
    sent = load["requests"] - load["unsent"]
    succeeded = load["statuses"].get("succeeded", 0)
    return Custody(sent, load["answered"], succeeded, load["duplicates"], rows, distinct, behind)


def _write(
    samples: Sequence[Sample],
    handles: _AtRest,
    kills: Sequence[tuple[float, str]],
    found: Sequence[Growth],
    custody: Custody,
    load: dict[str, Any],
    origin: Sequence[tuple[str, str]],
) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    table, plot = RESULTS / "soak.csv", RESULTS / "soak.svg"
    with table.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in origin)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("second", "series", "of", "value", "life"))
        writer.writerows(("end", "growth: " + g.series, g.of, f"{g.grew:.4g}", "") for g in found)
        writer.writerows(("end", "allowed: " + g.series, g.of, f"{g.allowed:.4g}", "") for g in found)
        writer.writerows(("before", "handles at rest", name, count, "") for name, count in handles.before.items())
        writer.writerows(("end", "handles at rest", name, count, "") for name, count in handles.after.items())
        for name in ("sent", "answered", "succeeded", "duplicates", "rows", "distinct_rows", "lag_at_end"):
            writer.writerow(("end", "custody", name, f"{getattr(custody, name):.12g}", ""))
        writer.writerows(("end", "status", status, count, "") for status, count in sorted(load["statuses"].items()))
        writer.writerows((f"{at_s:.1f}", "kill", name, 1, "") for at_s, name in kills)
        writer.writerows((f"{s.second:g}", s.series, s.of, f"{s.value:g}", s.life) for s in samples)
    draw(
        plot, _panels(samples, kills, load), " · ".join(f"{key}: {value}" for key, value in [*origin[:2], *origin[-5:]])
    )
    for path in (table, plot):
        click.echo(f"written: {path}")


def _panels(samples: Sequence[Sample], kills: Sequence[tuple[float, str]], load: dict[str, Any]) -> list[Panel]:
    marks = [at_s for at_s, _ in kills]
    panels = []
    for series in dict.fromkeys(sample.series for sample in samples):
        lines: dict[str, list[tuple[float, float]]] = {}
        for sample in samples:
            if sample.series == series:
                lines.setdefault(sample.of, []).append((sample.second, sample.value))
        panels.append(Panel(series, "second", series, lines, marks))
    answers = [(float(second["second"]), float(second["answers"])) for second in load["seconds"]]
    panels.append(Panel("answers a second; grey: kill -9 of a stage", "second", "answers", {"answers": answers}, marks))
    latency = [(float(s["second"]), max(1.0, s["99"])) for s in load["seconds"] if "99" in s]
    panels.append(Panel("added latency, p99 of each second", "second", "ms", {"p99": latency}, marks, log_y=True))
    return panels


def _judge(
    found: Sequence[Growth],
    broken: Sequence[str],
    custody: Custody,
    load: dict[str, Any],
    origin: Sequence[tuple[str, str]],
) -> int:
    click.echo(f"{'series':20} {'of':14} {'median':>10} {'grew':>10} {'allowed':>10}")
    for growth in found:
        figures = f"{growth.median:10.4g} {growth.grew:10.3g} {growth.allowed:10.4g}"
        click.echo(f"{growth.series:20} {growth.of:14} {figures} {'ok' if growth.holds else 'GREW'}")
    for key, value in origin:
        click.echo(f"{key}: {value}")
    click.echo(f"statuses: {load['statuses']}")
    click.echo(f"{custody.sent} sent, {custody.answered} answered, {custody.duplicates} twice, {custody.rows} rows")
    failures = [f"{g.series} of {g.of}: {g.grew:.3g} of at most {g.allowed:.3g}" for g in found if not g.holds] + list(
        broken
    )
    for failure in failures:
        click.echo(f"FAILED: {failure}")
    if not failures:
        click.echo("nothing grew beyond its allowance, nothing was lost, nothing came twice, log = ClickHouse")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_command(command))
