"""Processes that come and go: drains by SIGTERM, and a storm of joins and leaves."""

from __future__ import annotations

import signal
import sys
import time
from itertools import count

from fairlane.devstack.http_readiness import http_answers
from fairlane.devstack.port_choice import HOST, free_port
from fairlane.devstack.process import ChildProcess, Launch, start
from fairlane.devstack.stack import settings_environment
from tests.chaos.chaos_stack import STAGES
from tests.chaos.fault import Fault, Scene, Step, now

JOINS = 30
"""As many leaves follow: 60 changes of members."""
TOGETHER = 3
"""Guests at once: the next one comes before the first one goes."""
JOIN_BOUND_S = 40.0
LEAVE_BOUND_S = 35.0
KILLED = 6
"""Every so many a guest is killed instead of asked to go."""


def drain(stage: str) -> Step:
    """SIGTERM to one process; it hands back or finishes what it has, and its supervisor starts another."""

    async def step(scene: Scene) -> float:
        began = time.monotonic()
        before = scene.stack.signal([f"{stage}-1"], signal.SIGTERM)
        await scene.stack.all_ready(but=before)
        scene.notes.append(f"{stage}-1 replaced after {time.monotonic() - began:.1f} s")
        return now()

    return step


async def storm(scene: Scene) -> float:
    """Guests of every stage join and leave, three at a time."""
    guests: list[ChildProcess] = []
    joined, ports = 0, count(1)
    try:
        for number in range(JOINS):
            launch, child = _guest(scene, STAGES[number % len(STAGES)], next(ports))
            guests.append(child)
            await child.wait_ready(launch, f"guest {number}", JOIN_BOUND_S)
            joined += 1
            if len(guests) >= TOGETHER:
                await _leave(scene, guests.pop(0), number)
        for number, child in enumerate(guests):
            await _leave(scene, child, number)
        guests.clear()
    finally:
        for child in guests:
            child.kill()
            await child.ended()
    scene.notes.append(f"{joined} joined and left")
    return now()


async def _leave(scene: Scene, child: ChildProcess, number: int) -> None:
    if number % KILLED == KILLED - 1:
        child.kill()
        await child.ended()
    elif not await child.stop(LEAVE_BOUND_S):
        scene.failures.append(f"a guest did not leave within {LEAVE_BOUND_S:.0f} s; see {child.log}")
    child.kill_group()


def _guest(scene: Scene, stage: str, number: int) -> tuple[Launch, ChildProcess]:
    """One more process of a stage, a dynamic member of its group: it has no name that its place is kept for."""
    port = free_port()
    directory = scene.stack.stages_dir / "guests" / str(number)
    environment = {
        **settings_environment(scene.stack.stage_settings),
        "FAIRLANE_STATE_DIR": str(directory), "FAIRLANE_INSTANCE": "", "FAIRLANE_METRICS_PORT": str(port),
        "SIM_KEY": "not-a-secret",
    }  # fmt: skip

    async def ready() -> bool:
        return await http_answers(f"http://{HOST}:{port}/readyz")

    launch = Launch([sys.executable, "-m", "fairlane", "run", stage], ready, port, environment)
    return launch, start(launch, scene.stack.stages_dir / "logs" / f"guest-{stage}-{number}.log")


MEMBERS = (
    Fault(
        "drain", "SIGTERM to a process of each stage in turn", tuple(drain(stage) for stage in STAGES), calls_bar=1.0
    ),
    Fault("storm", "60 joins and leaves of processes of every stage", (storm,), bound_s=240.0),
)
