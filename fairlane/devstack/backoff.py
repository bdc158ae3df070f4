"""How long a crashed process stays down."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_S = 0.25
FACTOR = 2.0
CAP_S = 15.0
STABLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, capped, and forgotten by a process that ran long enough. Seconds.

    No jitter: the processes of one stack do not compete for anything.
    """

    delay_s: float = FIRST_S

    def after(self, ran_s: float) -> tuple[Backoff, float]:
        """The next state, and how long to wait before the restart of a process that ran for ``ran_s``."""
        delay = FIRST_S if ran_s > STABLE_S else self.delay_s
        return replace(self, delay_s=min(delay * FACTOR, CAP_S)), delay
