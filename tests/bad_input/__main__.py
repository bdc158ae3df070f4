"""``make bad-input``: the whole corpus with its mutations through a chain of its own; a table and a CSV.

python -m tests.bad_input [--count N] [--seed S] [--kinds 1-20,42] [--append]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks.report import provenance
from fairlane.devstack.native import native_clickhouse, native_kafka, native_redis
from tests.bad_input.processes import PEAK_MB, over_bounds
from tests.bad_input.run import BLOCKED_MS, Report, run
from tests.bad_input.session import Row
from tests.integration.running_chain import Chain

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "bad-input.csv"
STAGES = tuple(PEAK_MB)
COLUMNS = ("kind", "name", "plain", "mutated", "records", "as specified", "refused by broker", "outcomes", "fields",
           "slowest ms", "slowest good ms", *(f"{stage} peak MB" for stage in STAGES), "memory")  # fmt: skip


def cells(row: Row) -> tuple[object, ...]:
    """A row of the table."""
    outcomes = "; ".join(f"{name} {count}" for name, count in row.ways.most_common())
    fields = "; ".join(name for name, _ in row.fields.most_common(8))
    good = f"{1 - len(row.wrong) / max(1, row.records):.2%}"
    peaks = (round(row.peaks_mb.get(stage, 0)) for stage in STAGES)
    memory = "; ".join(over_bounds(row.peaks_mb)) or "within bounds"
    return (row.kind.number, row.kind.name, row.plain, row.mutated, row.records, good, row.refused_by_broker, outcomes,
            fields, row.slowest_ms, row.good_slowest_ms, *peaks, memory)  # fmt: skip


def main() -> int:
    """Run it; 1 if anything is not as specified."""
    parser = argparse.ArgumentParser(prog="bad-input", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="mutated inputs of each kind, beside the plain ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="1-71", help="for example 1-20,42")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--append", action="store_true", help="add to the CSV, for a run in several parts")
    options = parser.parse_args()
    ranges = [part.split("-") for part in options.kinds.split(",")]
    counts = {number: options.count for each in ranges for number in range(int(each[0]), int(each[-1]) + 1)}
    # However the run ends, its chain ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fairlane-bad-input-")))
        kafka, redis, clickhouse = (
            stack.enter_context(make(directory)) for make in (native_kafka, native_redis, native_clickhouse)
        )
        chain = Chain(kafka, redis, clickhouse, directory / "chain")
        stack.callback(chain.down)
        chain.up()
        report = asyncio.run(run(chain, counts, options.seed, lambda line: click.echo(line, err=True)))
    if report.slowest_good_ms > BLOCKED_MS:
        report.wrong.append(f"a good record waited {report.slowest_good_ms} ms")
    write(report, options.csv, append=options.append)
    for row in report.rows:
        click.echo(" | ".join(map(str, cells(row))))
        for each in row.wrong[:3]:
            click.echo(f"    {each}")
    failed = sum(len(row.wrong) for row in report.rows)
    click.echo("\n".join((*report.figures, *report.wrong)))
    click.echo(f"{failed} records and {len(report.wrong)} other things were not as specified")
    return 1 if failed or report.wrong else 0


def write(report: Report, path: Path, *, append: bool) -> None:
    """The table as CSV, under where it comes from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = [*provenance("python -m tests.bad_input " + " ".join(sys.argv[1:]))]
    origin += [("figures", line) for line in (*report.figures, *report.wrong)]
    with path.open("a" if append else "w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {text}\n" for key, text in origin)
        writer = csv.writer(file, lineterminator="\n")
        if not append:
            writer.writerow(COLUMNS)
        writer.writerows(cells(row) for row in report.rows)


if __name__ == "__main__":
    sys.exit(main())
