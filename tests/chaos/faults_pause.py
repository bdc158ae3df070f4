"""SIGSTOP past the lease, then SIGCONT: a process that does not know that it was replaced."""

from __future__ import annotations

import asyncio
import contextlib
import signal

from aiokafka.errors import KafkaError

from fairlane.settings import Settings
from tests.chaos.chaos_stack import PROCESSES, STAGES
from tests.chaos.fault import Fault, Scene, Step, now
from tests.chaos.traces import Owners, owners, taken_over

PAST_LEASE_S = 4.0
"""After the end of its session: its partitions are another's, who works on them by then."""
ASK_EVERY_S = 0.5


def pause(stage: str, number: int) -> Step:
    """SIGSTOP one process for longer than its session, then SIGCONT.

    It was a zombie if it is still the same, and if the broker gave all it had to another while it was stopped.
    """
    name = f"{stage}-{number}"

    async def step(scene: Scene) -> float:
        settings = scene.stack.settings
        before = await owners(settings.kafka_bootstrap, settings.group_prefix + stage)
        stopped = scene.stack.signal([name], signal.SIGSTOP)
        try:
            had, taken = await _stopped(scene, stage, name, before)
        finally:
            same = scene.stack.resume(stopped)
        ended = now()
        if not same:
            scene.failures.append(f"{name} was replaced while it was stopped: it was no zombie")
        scene.notes.append(f"{taken} of {had} partitions of {name} were another's when it went on")
        if not had or taken < had:
            scene.failures.append(f"{name} was no zombie: another had {taken} of its {had} partitions when it went on")
        return ended

    return step


async def _stopped(scene: Scene, stage: str, name: str, before: Owners) -> tuple[int, int]:
    """Wait past the lease; how many partitions it had when it was stopped, and how many another has in the end."""
    settings, after = scene.stack.settings, before
    end_s = now() + session_s(settings, stage) + PAST_LEASE_S
    while (left_s := end_s - now()) > 0:
        await asyncio.sleep(min(left_s, ASK_EVERY_S))
        with contextlib.suppress(KafkaError, OSError):
            after = await owners(settings.kafka_bootstrap, settings.group_prefix + stage)
    return taken_over(before, after, name)


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
