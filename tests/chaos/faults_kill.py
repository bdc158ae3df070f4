"""kill -9: of each process of each stage in turn, of all stages, of the services."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from tests.chaos.chaos_stack import PROCESSES, STAGES, eventually, redis_must_start_empty
from tests.chaos.fault import UNACKNOWLEDGED_BAR, Fault, Scene, Step, now
from tests.chaos.traces import events_since, sizes

CANARY = "chaos-canary"
"""A key of nobody's: it is gone exactly if Redis lost its data."""
REBUILT_S = 20.0
"""Below this the stages have filled an emptied Redis again; it is the bar for recovery too."""
REBUILT = ("results", "in_flight", "waiting")
"""What they then say it was filled with."""


def kill_process(stage: str, number: int) -> Step:
    """kill -9 of one process; its supervisor starts it again."""

    async def step(scene: Scene) -> float:
        killed = scene.stack.signal([f"{stage}-{number}"], signal.SIGKILL)
        ended = now()
        await scene.stack.all_ready(but=killed)
        return ended

    return step


async def kill_all(scene: Scene) -> float:
    """kill -9 of every stage process at once."""
    killed = scene.stack.signal([name for stage in STAGES for name in scene.stack.of_stage(stage)], signal.SIGKILL)
    ended = now()
    await scene.stack.all_ready(but=killed)
    return ended


def kill_service(name: str) -> Step:
    """kill -9 of a service, which comes back on its data."""

    async def step(scene: Scene) -> float:
        killed = scene.stack.signal([name], signal.SIGKILL)
        ended = now()
        await scene.stack.all_ready(but=killed)
        return ended

    return step


async def redis_empty(scene: Scene) -> float:
    """kill -9 of Redis, which comes back without its data; the stages fill it again and say so."""
    logs = scene.stack.stages_dir / "logs"
    begin = sizes(logs)
    marker = redis_must_start_empty(scene.stack.services_dir)
    marker.touch()
    try:
        async with _redis(scene) as client:
            await client.set(CANARY, "alive")
        killed = scene.stack.signal(["redis"], signal.SIGKILL)
        ended = now()
        await scene.stack.all_ready(but=killed)
        async with _redis(scene) as client:
            if await client.exists(CANARY):
                scene.failures.append("Redis came back with its data: the fault did not happen")
    finally:
        marker.unlink()
    await said_rebuilt(scene, logs, begin)
    return ended


async def redis_flush(scene: Scene) -> float:
    """FLUSHALL; the stages fill Redis again and say so."""
    logs = scene.stack.stages_dir / "logs"
    begin = sizes(logs)
    async with _redis(scene) as client:
        await client.flushall()
    ended = now()
    await said_rebuilt(scene, logs, begin)
    return ended


async def said_rebuilt(scene: Scene, logs: Path, begin: Mapping[Path, int], bound_s: float = REBUILT_S) -> None:
    """Wait until a stage tells that it filled the emptied store again, and note what; else the row is broken."""

    async def told() -> bool:
        return bool(events_since(logs, begin, "store_rebuilt"))

    if not await eventually(told, bound_s):
        scene.failures.append(f"no stage said within {bound_s:.0f} s that it filled the store again")
        return
    for event in events_since(logs, begin, "store_rebuilt"):
        figures = ", ".join(f"{event[name]} {name.replace('_', ' ')}" for name in REBUILT)
        scene.notes.append(f"filled again with {figures}")


@asynccontextmanager
async def _redis(scene: Scene) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(scene.stack.settings.redis_url)
    try:
        yield client
    finally:
        await client.aclose()


KILLS = (
    *(
        Fault(
            f"kill-{stage}", f"kill -9 of each {stage} process in turn",
            tuple(kill_process(stage, number + 1) for number in range(PROCESSES)),
        )
        for stage in STAGES if stage != "dispatcher"
    ),
    Fault(
        "kill-dispatcher", "kill -9 of each dispatcher in turn, while the narrow pool is flooded",
        tuple(kill_process("dispatcher", number + 1) for number in range(PROCESSES)), flooded=True,
    ),
    Fault("kill-all", "kill -9 of all stage processes at once", (kill_all,), recovery_bar_s=30.0),
    Fault(
        "kill-broker", "kill -9 of the broker, back on its data", (kill_service("kafka"),), recovery_bar_s=30.0,
        unacknowledged_bar=UNACKNOWLEDGED_BAR,
    ),
    Fault("kill-clickhouse", "kill -9 of the ClickHouse front, back on its data", (kill_service("clickhouse"),)),
    Fault("redis-empty", "kill -9 of Redis, back without its data", (redis_empty,)),
    Fault("redis-flush", "FLUSHALL under load", (redis_flush,)),
)  # fmt: skip
