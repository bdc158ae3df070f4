"""What the world outside of the processes is like at the moment: delays, outages, and answers that get lost."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

    async def remotely(
        self, call: Callable[[], Coroutine[Any, Any, T]], *, lose_answer: bool = False, slow_s: float = 0.0
    ) -> T:
        """Let a service do something: it happens even if the caller is killed or stopped on the way.

        ``call`` may give others a turn (``asyncio.sleep(0)``) but wait for nothing.

        Raises what the service raises, or Retry if the answer is lost.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        # Timers and no task: nothing here can be cancelled with the caller, and most of what happens in
        # a world is a question to a service.
        def there() -> None:
            self._go_on(call(), back)

        def back(given: T | None, failure: Exception | None) -> None:
            if failure is not None:
                loop.call_soon(_answer, answer, None, failure)
            elif lose_answer:
                loop.call_later(UNANSWERED_S, _answer, answer, None, Retry("the answer was lost", after=0.05))
            else:
                loop.call_later(self.delay(), _answer, answer, given, None)

        with within(None):
            loop.call_later(self.delay() + slow_s, there)
        return await answer

    def _go_on(self, work: Coroutine[Any, Any, T], ended: Callable[[T | None, Exception | None], None]) -> None:
        """Let a service work until it has an answer; between two of its steps others may have a turn."""
        try:
            waits_for = work.send(None)
        except StopIteration as finished:
            ended(finished.value, None)
        except Exception as failure:  # noqa: BLE001 - it belongs to whoever asked
            ended(None, failure)
        else:
            if waits_for is not None:
                raise RuntimeError("a service of the simulation waits for something")
            asyncio.get_running_loop().call_soon(self._go_on, work, ended)


def _answer(future: asyncio.Future[Any], given: object, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(given)
