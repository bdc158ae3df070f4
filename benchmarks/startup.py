"""How long things take to begin: the command line's import, and `fairlane up` until it is ready and has answered."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.cases import Case, RequestTemplate
from benchmarks.measures import Measures, median_of
from benchmarks.own_stack import bench_settings, child
from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.devstack.log_file import tail
from fairlane.devstack.stack import settings_environment
from fairlane.devstack.state import load_state
from fairlane.errors import Fatal
from fairlane.ports import Outgoing

RUNS = 9
WITHIN_S = 120


def measure_startup(measures: Measures, say: Callable[[str], None], *, ups: int) -> None:
    """Import times, then ``ups`` times a stack from nothing but a warm cache. Call it outside of an event loop."""
    bare_s = _seconds(["-c", "pass"])
    import_s = _seconds(["-c", "import fairlane.cli.main"]) - bare_s
    help_s = _seconds(["-m", "fairlane", "--help"])
    measures.add("startup", "s", **{"import": import_s, "`fairlane --help`": help_s, "python alone": bare_s})
    say(f"startup: import of the command line {import_s:.2f} s, `fairlane --help` {help_s:.2f} s")
    ready, first = zip(*(asyncio.run(_up()) for _ in range(ups)), strict=True)
    measures.add("startup", "s", ready=median_of(ready), **{"first result": median_of(first)})
    say(f"startup: `up` ready after {median_of(ready):.1f} s, first result after {median_of(first):.1f} s")


def _seconds(arguments: list[str]) -> float:
    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=_environment())
        return time.perf_counter() - began

    once()
    return median_of([once() for _ in range(RUNS)])


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))}


async def _up() -> tuple[float, float]:
    """Seconds from the command to ready, and to the first result of a request sent then."""
    with tempfile.TemporaryDirectory(prefix="fairlane-bench-") as directory:
        settings = bench_settings(state_dir=directory)
        began = time.perf_counter()
        async with child("up", ["-m", "fairlane", "up"], Path(directory), settings_environment(settings)) as up:
            state = load_state(Path(directory))
            while state is None or state.phase != "ready":
                if up.exit_code is not None or time.perf_counter() - began > WITHIN_S:
                    raise Fatal(f"`fairlane up` did not become ready{tail(up.log)}")
                await asyncio.sleep(0.02)
                state = load_state(Path(directory))
            ready_s = time.perf_counter() - began
            await _first_result(state.addresses["kafka"], settings.topic_prefix)
            first_s = time.perf_counter() - began
            await up.stop(WITHIN_S)
            return ready_s, first_s


async def _first_result(kafka: str, prefix: str) -> None:
    run = uuid.uuid4().hex[:8]
    value = RequestTemplate(Case("first", 1, 1), run).request("acme", 0)
    publisher = KafkaPublisher(kafka, "bench-startup")
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
    await publisher.start()
    try:
        await consumer.start()
        count = await publisher.partitions(prefix + "results")
        partitions = [TopicPartition(prefix + "results", number) for number in range(count)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        await publisher.send(Outgoing(prefix + "requests", None, value))
        async with asyncio.timeout(WITHIN_S):
            while not await consumer.getmany(timeout_ms=200):
                pass
    finally:
        await consumer.stop()
        await publisher.stop()
