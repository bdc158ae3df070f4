"""SIGSTOP past the lease, then SIGCONT: a process that does not know that it was replaced."""

from __future__ import annotations

import asyncio
import signal

from fairlane.settings import Settings
from tests.chaos.chaos_stack import PROCESSES, STAGES
from tests.chaos.fault import Fault, Scene, Step, now

PAST_LEASE_S = 4.0
"""After the end of its session: its partitions are another's, who works on them by then."""


def pause(stage: str, number: int) -> Step:
    """SIGSTOP one process for longer than its session, then SIGCONT."""

    async def step(scene: Scene) -> float:
        stopped = scene.stack.signal([f"{stage}-{number}"], signal.SIGSTOP)
        try:
            await asyncio.sleep(session_s(scene.stack.settings, stage) + PAST_LEASE_S)
        finally:
            same = scene.stack.resume(stopped)
        if not same:
            scene.failures.append(f"{stage}-{number} was replaced while it was stopped: it was no zombie")
        return now()

    return step


def session_s(settings: Settings, stage: str) -> float:
    """After how long a silent process of a stage loses its partitions."""
    return (settings.dispatcher_session_timeout_ms if stage == "dispatcher" else settings.session_timeout_ms) / 1000


def _pauses(stage: str) -> Fault:
    dispatcher = stage == "dispatcher"
    # A pool has one owner, and which of the dispatchers it is cannot be told from outside: each is stopped.
    numbers = range(1, PROCESSES + 1) if dispatcher else (1,)
    return Fault(
        f"pause-{stage}", f"SIGSTOP of a {stage} past its lease, then SIGCONT",
        tuple(pause(stage, number) for number in numbers), late_records=True, flooded=dispatcher,
    )  # fmt: skip


PAUSES = tuple(_pauses(stage) for stage in STAGES)
