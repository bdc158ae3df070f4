"""The HTTP endpoint of a process, asked over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlane.adapters.health_server import HealthServer
from fairlane.errors import Fatal
from fairlane.telemetry import PrometheusMetrics


class Process:
    def __init__(self) -> None:
        self.metrics = PrometheusMetrics()
        self.sick: str | None = None
        self.waiting_for: str | None = "the broker"
        self.server = HealthServer(
            self.metrics.exposition, healthy=lambda: self.sick, ready=lambda: self.waiting_for, port=0
        )


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    process = Process()
    await process.server.start()
    yield process
    await process.server.stop()


async def get(process: Process, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(process.server.url + path) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_metrics_are_served_as_prometheus_reads_them(process: Process) -> None:
    process.metrics.inc("engine_records_total", 3, stage="gate", topic="fairlane.requests")
    status, content_type, text = await get(process, "/metrics")
    assert (status, content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    assert samples["fairlane_engine_records_total"] == 3


async def test_readiness_says_what_it_waits_for_and_changes_by_itself(process: Process) -> None:
    assert await get(process, "/readyz") == (
        503,
        "application/json; charset=utf-8",
        '{"ok": false, "reason": "the broker"}',
    )
    process.waiting_for = None
    assert (await get(process, "/readyz"))[0] == 200


async def test_health_does_not_depend_on_readiness(process: Process) -> None:
    assert (await get(process, "/healthz"))[0] == 200
    process.sick = "no commit for 60 s"
    status, _, text = await get(process, "/healthz")
    assert (status, text) == (503, '{"ok": false, "reason": "no commit for 60 s"}')


async def test_it_reports_the_free_port_it_chose_and_frees_it(process: Process) -> None:
    port = process.server.port
    assert port > 0
    await process.server.stop()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_taken_port_is_fatal_and_named(process: Process) -> None:
    second = HealthServer(bytes, healthy=lambda: None, ready=lambda: None, port=process.server.port)
    with pytest.raises(Fatal, match=f"{process.server.port}.*FAIRLANE_METRICS_PORT"):
        await second.start()
