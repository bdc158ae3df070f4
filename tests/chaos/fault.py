"""What a fault is: a name, what is done, and the bars it is held to."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.chaos.chaos_stack import ChaosStack
from tests.chaos.log_observer import LogObserver

UNACKNOWLEDGED_BAR = 0.1
"""Where the broker itself is at fault. What waits for it is sent once it is back; what it refuses meanwhile is not."""
RECOVERY_BOUND_S = 60.0
"""Longer than this nobody waits for a recovery."""


@dataclass(slots=True)
class Scene:
    """What a fault may touch, and what it can say about itself."""

    stack: ChaosStack
    observer: LogObserver
    say: Callable[[str], None]
    failures: list[str] = field(default_factory=list)
    """What the fault itself found wrong."""
    notes: list[str] = field(default_factory=list)
    """Figures of its own, for the table."""


Step = Callable[[Scene], Awaitable[float]]
"""Does something bad and returns when it ended (seconds since the epoch), which is not later than now."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table. Each step is recovered from before the next begins."""

    name: str
    what: str
    steps: tuple[Step, ...]
    recovery_bar_s: float = 20.0
    bound_s: float = 120.0
    """Of one step."""
    calls_bar: float | None = 1.05
    """Provider calls for each request; None where the provider itself is at fault."""
    success_bar: float = 1.0
    """Of the good requests so many must succeed. Waiting is no excuse: their deadline is ten minutes."""
    unacknowledged_bar: float = 0.0
    """Of what is sent so much may stay without the broker's acknowledgement. Nothing says what must become of that."""
    late_records: bool = False
    """A process is stopped past its lease: a record it had on its way can come late. It then loses, and is told."""
    flooded: bool = False
    """The narrow pool is asked for more than it can do, so that shares can be judged across the fault."""
    small_disks: bool = False
    """Needs a stack whose broker and ClickHouse have a disk of their own each."""


def now() -> float:
    """Seconds since the epoch, as in the records."""
    return time.time()
