"""The gate alone: requests stand in the log before it begins, and its CPU time is taken until the last is admitted."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases import Case, RequestTemplate, bench_config, tenant_name
from benchmarks.cpu import spent, used
from benchmarks.measures import Measures
from benchmarks.own_stack import bench_settings, child
from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.devstack.first_config import LogPreparation
from fairlane.devstack.http_readiness import http_answers
from fairlane.devstack.native import native_kafka, native_redis
from fairlane.devstack.port_choice import HOST, free_port
from fairlane.devstack.process import ChildProcess
from fairlane.devstack.stack import settings_environment
from fairlane.errors import Fatal
from fairlane.ports import Outgoing

ENGINES = ("faust", "loop")
READY_WITHIN_S = 60.0
ADMITTED_WITHIN_S = 120.0
WARM_UP_RECORDS = 1000


def measure_gate(measures: Measures, say: Callable[[str], None], *, records: int) -> None:
    """Both engines, one after the other, on one broker and one Redis. Call it outside of an event loop."""
    with (
        tempfile.TemporaryDirectory(prefix="fairlane-bench-") as directory,
        native_kafka(Path(directory)) as kafka,
        native_redis(Path(directory)) as redis,
    ):
        for engine in ENGINES:
            asyncio.run(_measure(engine, kafka, redis, Path(directory), records, measures, say))


async def _measure(
    engine: str, kafka: str, redis: str, directory: Path, records: int, measures: Measures, say: Callable[[str], None]
) -> None:
    prefix, port = f"{engine}.", free_port()
    settings = bench_settings(
        kafka_bootstrap=kafka, redis_url=redis, topic_prefix=prefix, group_prefix=prefix, metrics_port=port,
        state_dir=str(directory), instance=f"gate-{engine}", stage_engines=f"gate={engine}",
    )  # fmt: skip
    await LogPreparation(kafka, prefix, "http://127.0.0.1:9/v1", first=bench_config()).run()
    reader, publisher = KafkaReader(kafka), KafkaPublisher(kafka, "bench-gate", buffer_bytes=1 << 30)
    await reader.start()
    await publisher.start()
    try:
        async with child(f"gate-{engine}", ["-m", "fairlane", "run", "gate"], directory,
                         settings_environment(settings)) as gate:  # fmt: skip
            await _ready(gate, port)
            await _write(publisher, prefix, "warm", WARM_UP_RECORDS)
            await _admitted(reader, prefix, WARM_UP_RECORDS, gate)
            # Stopped, not ended: its group keeps it for ten seconds, and its start is not counted.
            os.kill(gate.pid, signal.SIGSTOP)
            await _write(publisher, prefix, "load", records)
            before, began = used({"gate": gate.pid}), time.perf_counter()
            os.kill(gate.pid, signal.SIGCONT)
            await _admitted(reader, prefix, WARM_UP_RECORDS + records, gate)
            took_s, cpu_s = time.perf_counter() - began, spent(before, used({"gate": gate.pid}))["gate"]
    finally:
        await publisher.stop()
        await reader.stop()
    case = f"gate on {engine}"
    measures.add(case, "1/s", **{"records per CPU second": records / cpu_s, "records per second": records / took_s})
    measures.add(case, "µs/request", cpu=cpu_s / records * 1e6)
    say(f"{case}: {records / cpu_s:.0f} requests per CPU second ({cpu_s / records * 1e6:.0f} µs each), "
        f"{records / took_s:.0f}/s beside its broker and Redis")  # fmt: skip


async def _ready(gate: ChildProcess, port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not await http_answers(f"http://{HOST}:{port}/readyz"):
        if gate.exit_code is not None or time.monotonic() > deadline:
            raise Fatal(f"the gate did not become ready; see {gate.log}")
        await asyncio.sleep(0.05)


async def _write(publisher: KafkaPublisher, prefix: str, run: str, records: int) -> None:
    template = RequestTemplate(Case(run, 1, 1), run)
    acks = [
        publisher.send(Outgoing(prefix + "requests", None, template.request(tenant_name(n % 5), n), (), n % 8))
        for n in range(records)
    ]
    await asyncio.gather(*acks)


async def _admitted(reader: KafkaReader, prefix: str, records: int, gate: ChildProcess) -> None:
    """Wait until so many stand in the lane; the gate writes a record only after it was admitted."""
    deadline = time.monotonic() + ADMITTED_WITHIN_S
    while sum((await reader.ends(prefix + "lanes.bench")).values()) < records:
        refused = sum((await reader.ends(prefix + "results")).values())
        if refused or gate.exit_code is not None or time.monotonic() > deadline:
            raise Fatal(f"the gate did not admit {records} requests ({refused} refused); see {gate.log}")
        await asyncio.sleep(0.05)
