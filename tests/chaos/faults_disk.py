"""A full disk under the broker, and under ClickHouse."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.chaos import disk
from tests.chaos.fault import UNACKNOWLEDGED_BAR, Fault, Scene, Step, now
from tests.chaos.traces import felt_by_broker, felt_by_clickhouse, grown, lines_since

FULL_S = 10.0
REFUSALS = ("No space left on device", "File too large")
"""What the broker's log says of a write that failed: on the tmpfs, and under the limit that stands in for it."""

Felt = Callable[[], Awaitable[str]]
"""What became of it so far, in words; empty: nothing."""


def disk_full(service: str) -> Step:
    """No space for a service for some seconds; its supervisor starts it again if that ends it.

    What it did is asked while there is no space: what fails afterwards is no proof that anything was full.
    """

    async def step(scene: Scene) -> float:
        scene.notes.append("a tmpfs of its own, full" if disk.real() else "stand-in: a limit on the size of files")
        felt = await WATCHED[service](scene)
        with disk.full(scene.stack, service):
            await asyncio.sleep(FULL_S)
            what = await felt()
        ended = now()
        if what:
            scene.notes.append(what)
        else:
            scene.failures.append(f"the fault did nothing: no write of {service} failed while its disk was full")
        await scene.stack.all_ready()
        return ended

    return step


async def _broker(scene: Scene) -> Felt:
    log = scene.stack.services_dir / "logs" / "kafka.log"
    begin, restarts = log.stat().st_size, scene.stack.processes()["kafka"].restarts

    async def felt() -> str:
        refused = sum(len(lines_since(log, begin, text)) for text in REFUSALS)
        return felt_by_broker(scene.stack.processes()["kafka"].restarts - restarts, refused)

    return felt


async def _clickhouse(scene: Scene) -> Felt:
    before = await scene.stack.counters("sinks", "sink_inserts_total", outcome="retry")

    async def felt() -> str:
        after = await scene.stack.counters("sinks", "sink_inserts_total", outcome="retry")
        return felt_by_clickhouse(grown(before, after))

    return felt


WATCHED = {"kafka": _broker, "clickhouse": _clickhouse}

DISKS = (
    Fault(
        "disk-full-broker", "no space for the broker's log, for 10 s", (disk_full("kafka"),),
        recovery_bar_s=30.0, unacknowledged_bar=UNACKNOWLEDGED_BAR, small_disks=True,
    ),
    Fault(
        "disk-full-clickhouse", "no space for ClickHouse, for 10 s", (disk_full("clickhouse"),), small_disks=True,
    ),
)  # fmt: skip
