"""What the world outside of the processes is like at the moment: delays, outages, and answers that get lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fairlane.devstack.simulation.virtual_loop import Process, within
from fairlane.errors import Retry

T = TypeVar("T")

UNANSWERED_S = 0.4
"""After this a caller is told that its request was not answered."""


@dataclass(slots=True)
class Conditions:
    """Faults set these; the twins ask. ``delay_s`` bounds one way over the network."""

    rng: random.Random
    delay_s: float
    log_away: bool = False
    store_away: bool = False
    tables_away: bool = False
    slow_s: float = 0.0
    store_slow_s: float = 0.0
    provider: str = "well"
    ordered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(operation, process): how many of the next ones go wrong."""
    forgiven: int = 0
    """How many times a record reached the log after its writer had given it up or had been replaced."""

    def delay(self) -> float:
        """One way over the network, in seconds."""
        return self.rng.random() * self.delay_s + (self.rng.random() * self.slow_s if self.slow_s else 0.0)

    def goes_wrong(self, operation: str, process: Process) -> bool:
        """Whether a fault was ordered for this operation of the process; uses it up."""
        key = (operation, process.name)
        if not self.ordered or self.ordered[key] <= 0:
            return False
        self.ordered[key] -= 1
        return True

    async def remotely(self, call: Callable[[], Awaitable[T]], *, lose_answer: bool = False, slow_s: float = 0.0) -> T:
        """Let a service do something: it happens even if the caller is killed or stopped on the way.

        Raises what the service raises, or Retry if the answer is lost.
        """

        async def there_and_back() -> T:
            await asyncio.sleep(self.delay() + slow_s)
            answer = await call()
            if lose_answer:
                await asyncio.sleep(UNANSWERED_S)
                raise Retry("the answer was lost", after=0.05)
            await asyncio.sleep(self.delay())
            return answer

        with within(None):
            task = asyncio.get_running_loop().create_task(there_and_back())
        return await asyncio.shield(task)
