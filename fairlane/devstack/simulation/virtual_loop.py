"""An event loop whose time jumps to the next timer: no sleeping, no I/O, and the same order for the same seed.

Callbacks of one process run in the order in which they were scheduled, as on any event loop. The order
between processes is the seed's, because nothing orders processes that run side by side. A process can
be stopped between any two of its callbacks, for a while or for good.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from asyncio.events import _get_running_loop, _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

T = TypeVar("T")
_INTERLEAVE_MAX = 64
"""Callbacks of one turn whose order is drawn; in a longer turn the order is that of scheduling."""


@dataclass(eq=False, slots=True)
class Process:
    """What shares the fate of one operating system process. ``dead`` and ``frozen`` are set through the loop."""

    name: str
    dead: bool = False
    frozen: bool = False
    steps: int = 0
    """Callbacks run so far."""
    fuse: int | None = None
    """Just before this step the process dies."""
    died: Callable[[], None] | None = None
    """Called when the fuse has burnt down, outside of the process."""
    held: list[Scheduled] = field(default_factory=list)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
"""The process a callback belongs to; None is the world outside: brokers, stores, providers, faults."""


class within:  # noqa: N801 - used like a function, and too often for a generator
    """What is scheduled in here belongs to ``process``."""

    __slots__ = ("_process", "_token")

    def __init__(self, process: Process | None) -> None:
        self._process = process

    def __enter__(self) -> None:
        self._token = PROCESS.set(self._process)

    def __exit__(self, *_: object) -> None:
        PROCESS.reset(self._token)


class Scheduled:
    """A callback that will run, and the process it belongs to; what asyncio calls a handle."""

    __slots__ = ("_when", "args", "callback", "context", "dropped", "process")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.process: Process | None = self.context.get(PROCESS)
        self._when = when
        self.dropped = False

    def cancel(self) -> None:
        """Do not run it."""
        self.dropped = True
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.dropped

    def when(self) -> float:
        """The virtual time it is for."""
        return self._when


class Stuck(Exception):
    """Nothing is scheduled any more, yet what was waited for has not happened; or time has run out."""


class VirtualLoop:
    """See the module. It has those methods of an event loop that need no I/O.

    ``until_s`` bounds virtual time and ``steps_max`` the callbacks of a run, beyond which
    :class:`Stuck` is raised.
    """

    def __init__(
        self, rng: random.Random, *, interleave: bool = True, until_s: float = 3600.0, steps_max: int = 2_000_000
    ) -> None:
        # asyncio's own classes want the abstract loop, with all its I/O; they use no more than is here.
        self._as_asyncio = cast(asyncio.AbstractEventLoop, self)
        self._rng = rng
        self._interleave = interleave
        self._until_s = until_s
        self._steps_left = steps_max
        self._now = 0.0
        self._sequence = 0
        self._ready: deque[Scheduled] = deque()
        self._timers: list[tuple[float, int, Scheduled]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._frozen: list[Process] = []
        self._dropped: list[Scheduled] = []
        """What the dead would have run; needed to unwind their coroutines in the end."""
        self._closed = False
        self._running = False
        self.failures: list[str] = []
        """Exceptions that a callback raised to the loop: bugs of whoever scheduled it."""

    # --- what asyncio asks of a loop ------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether a callback of it runs."""
        return self._running

    def is_closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self._as_asyncio)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """A task; it belongs to the process that creates it."""
        task = asyncio.Task(coro, loop=self._as_asyncio, name=name or "task", context=context)
        self._tasks.append(task)
        return task

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Scheduled:
        """Run in the next turn."""
        scheduled = Scheduled(self._now, callback, args, context)
        self._ready.append(scheduled)
        return scheduled

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Scheduled:
        """Run after ``delay`` virtual seconds."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Scheduled:
        """Run at a virtual time; timers of the same time run in the order they were made."""
        scheduled = Scheduled(when, callback, args, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, scheduled))
        return scheduled

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tasks that were never awaited or dropped unfinished: how a killed process looks from inside."""

    # --- processes --------------------------------------------------------------------------------

    def kill(self, process: Process) -> None:
        """None of its callbacks runs any more: no cleaning up, no goodbye."""
        process.dead = True
        self._dropped.extend(process.held)
        process.held.clear()

    def freeze(self, process: Process) -> None:
        """Hold its callbacks until :meth:`thaw`; time goes on."""
        process.frozen = True
        self._frozen.append(process)

    def thaw(self, process: Process) -> None:
        """Run what was held, in order, before anything later."""
        if process.frozen:
            process.frozen = False
            self._ready.extend(process.held)
            process.held.clear()

    # --- running ----------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        """Run until it is done and return its result. Raises :class:`Stuck`."""
        main = asyncio.ensure_future(future, loop=self._as_asyncio)
        self._run(main.done)
        return main.result()

    def close(self) -> None:
        """Unwind every task that is left, so that none is torn down by the garbage collector later."""
        self._timers.clear()
        self._ready.extend(self._dropped)
        for process in self._frozen:
            self._ready.extend(process.held)
            process.held.clear()
        for _ in range(20):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self._unwinding()
            self._timers.clear()
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()
        self._closed = True

    def _unwinding(self) -> None:
        previous = _get_running_loop()
        _set_running_loop(self._as_asyncio)
        try:
            for _ in range(1000):
                if not self._ready:
                    return
                scheduled = self._ready.popleft()
                if not scheduled.dropped:
                    self._call(scheduled)
        finally:
            _set_running_loop(previous)

    def _run(self, finished: Callable[[], bool]) -> None:
        previous = _get_running_loop()
        _set_running_loop(self._as_asyncio)
        self._running = True
        try:
            while not finished():
                self._turn()
        finally:
            self._running = False
            _set_running_loop(previous)

    def _turn(self) -> None:
        timers, ready, now = self._timers, self._ready, self._now
        if not ready:
            while timers and timers[0][2].dropped:
                heapq.heappop(timers)
            if not timers:
                raise Stuck("nothing is scheduled any more")
            if timers[0][0] > now:
                self._now = now = timers[0][0]
                if now > self._until_s:
                    raise Stuck(f"not finished after {self._until_s:g} virtual seconds")
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer.dropped:
                ready.append(timer)
        self._steps_left -= len(ready)
        if self._steps_left < 0:
            raise Stuck("too many steps: something spins")
        if len(ready) == 1:
            self._step(ready.popleft())
            return
        batch = list(ready)
        ready.clear()
        if self._interleave and len(batch) <= _INTERLEAVE_MAX:
            batch = self._interleaved(batch)
        for scheduled in batch:
            self._step(scheduled)

    def _step(self, scheduled: Scheduled) -> None:
        if scheduled.dropped:
            return
        process = scheduled.process
        if process is not None:
            if process.dead:
                self._dropped.append(scheduled)
                return
            if process.frozen:
                process.held.append(scheduled)
                return
            process.steps += 1
            if process.fuse is not None and process.steps >= process.fuse and process.died is not None:
                process.fuse = None
                process.died()
                self._dropped.append(scheduled)
                return
        try:
            scheduled.context.run(scheduled.callback, *scheduled.args)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the run goes on and is found wanting
            self.failures.append(f"a callback raised {failure!r}")

    def _call(self, scheduled: Scheduled) -> None:
        try:
            scheduled.context.run(scheduled.callback, *scheduled.args)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the run goes on and is found wanting
            self.failures.append(f"a callback raised {failure!r}")

    def _interleaved(self, batch: list[Scheduled]) -> list[Scheduled]:
        queues: dict[Process | None, deque[Scheduled]] = {}
        turns: list[deque[Scheduled]] = []
        for scheduled in batch:
            queue = queues.get(scheduled.process)
            if queue is None:
                queue = queues[scheduled.process] = deque()
            queue.append(scheduled)
            turns.append(queue)
        if len(queues) == 1:
            return batch
        self._rng.shuffle(turns)
        return [queue.popleft() for queue in turns]
