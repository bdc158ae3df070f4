"""The sinks alone: a second group of them reads what the chain left in the log into a database of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import aiohttp

from benchmarks.cpu import spent, used
from benchmarks.measures import Measures
from benchmarks.own_stack import BenchStack, child
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.devstack.port_choice import HOST, free_port
from fairlane.devstack.prepare import prepare_tables
from fairlane.devstack.stack import settings_environment
from fairlane.errors import Fatal
from fairlane.schemas.topics import ATTEMPTS, DEAD_LETTERS, DECISIONS, RESULTS

STALL_S = 60.0
"""No row for so long: the rest will not come."""
ROWS_TOTAL = "fairlane_sink_rows_total{"


async def measure_sink(stack: BenchStack, measures: Measures, say: Callable[[str], None]) -> None:
    """Read every record of the public topics once more, with nothing else going on."""
    port, database = free_port(), f"{stack.settings.clickhouse_database}_bench"
    settings = replace(
        stack.settings, metrics_port=port, clickhouse_database=database, group_prefix="bench-again.", instance="sinks-b"
    )
    await prepare_tables(settings.clickhouse_url, database)
    reader = KafkaReader(settings.kafka_bootstrap)
    await reader.start()
    try:
        topics = [spec.full_name(settings.topic_prefix) for spec in (RESULTS, ATTEMPTS, DECISIONS, DEAD_LETTERS)]
        wanted = sum([sum((await reader.ends(topic)).values()) for topic in topics])
    finally:
        await reader.stop()
    async with (
        aiohttp.ClientSession(f"http://{HOST}:{port}") as session,
        child("sinks-bench", ["-m", "fairlane", "run", "sinks"], stack.state_dir, settings_environment(settings))
        as sinks,
    ):  # fmt: skip
        pids = {"sinks": sinks.pid, "clickhouse": stack.pids()["clickhouse"]}
        began = heard = time.monotonic()
        first = rows = 0
        before = used(pids)
        while rows < wanted:
            if sinks.exit_code is not None or time.monotonic() - heard > STALL_S:
                raise Fatal(f"the sinks wrote {rows} of {wanted} rows; see {sinks.log}")
            await asyncio.sleep(0.05)
            if (found := await _rows(session)) > rows:
                rows, heard = found, time.monotonic()
            if not first and rows:
                # From the first insert on: the start of a process is measured elsewhere.
                first, before, began = rows, used(pids), time.monotonic()
        took_s, cpu = time.monotonic() - began, spent(before, used(pids))
    rows -= first
    measures.add("sink", "rows/s", **{"rows per CPU second": rows / cpu["sinks"], "rows per second": rows / took_s})
    measures.add("sink", "rows", rows=rows)
    measures.add("sink: clickhouse", "rows/s", **{"rows per CPU second": rows / max(1e-9, cpu["clickhouse"])})
    say(f"sink: {rows / cpu['sinks']:.0f} rows per CPU second, {rows / took_s:.0f} rows/s beside ClickHouse's engine")


async def _rows(session: aiohttp.ClientSession) -> int:
    try:
        async with session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
    except aiohttp.ClientError:
        return 0
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(ROWS_TOTAL)))
