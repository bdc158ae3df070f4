"""A full disk under the broker, and under ClickHouse."""

from __future__ import annotations

import asyncio

from tests.chaos import disk
from tests.chaos.fault import Fault, Scene, Step, now

FULL_S = 10.0


def disk_full(service: str) -> Step:
    """No space for a service for some seconds; its supervisor starts it again if that ends it."""

    async def step(scene: Scene) -> float:
        scene.notes.append("a tmpfs of its own, full" if disk.real() else "stand-in: a limit on the size of files")
        with disk.full(scene.stack, service):
            await asyncio.sleep(FULL_S)
        ended = now()
        await scene.stack.all_ready()
        return ended

    return step


DISKS = (
    Fault(
        "disk-full-broker", "no space for the broker's log, for 10 s", (disk_full("kafka"),),
        recovery_bar_s=30.0, small_disks=True,
    ),
    Fault(
        "disk-full-clickhouse", "no space for ClickHouse, for 10 s", (disk_full("clickhouse"),), small_disks=True,
    ),
)  # fmt: skip
