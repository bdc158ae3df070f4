"""Hands batches to a stage and answers what it raises, in the way the stage's port promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison, Retry
from fairlane.ports import OwnershipLost, Record, Stage
from fairlane.telemetry import Metrics, get_logger

TRIES = 3
"""How often a record is tried by itself before it counts as poisoned."""

_log = get_logger(__name__)


class Interrupted(Exception):
    """A call of the stage was cut short: partitions are going away or the process stops."""


class Delivery:
    """Calls one stage, never twice at a time.

    ``done`` and ``is_unfinished`` are those of the ledger: a batch is repeated without the records
    that are done or no longer owned. What cannot be answered here leaves as
    :class:`~fairlane.errors.Fatal`.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        stage_name: str,
        clock: Clock,
        metrics: Metrics,
        done: Callable[[Record], None],
        is_unfinished: Callable[[Record], bool],
    ) -> None:
        self._stage = stage
        self._name = stage_name
        self._clock = clock
        self._metrics = metrics
        self._done = done
        self._is_unfinished = is_unfinished
        self._turn = asyncio.Lock()
        self._scope: asyncio.Timeout | None = None
        self._closed = asyncio.Event()

    async def process(self, batch: Sequence[Record]) -> None:
        """Deliver a batch until the stage has taken it, or until :meth:`close`. Raises Fatal."""
        pending = batch
        while pending and not self._closed.is_set():
            started = self._clock.monotonic()
            try:
                async with self._turn:
                    await self._call(self._stage.process(pending, self._done))
            except Interrupted:
                pass
            except Retry as failure:
                await self._pause(failure, len(pending))
            except Fatal:
                self._metrics.inc("engine_failures_total", stage=self._name, kind="fatal")
                raise
            except Exception as failure:  # noqa: BLE001 - whatever a stage's bug raises must not lose its records
                self._bug(failure, len(pending))
                await self._one_by_one(pending)
                return
            else:
                self._metrics.observe("engine_process_seconds", self._clock.monotonic() - started, stage=self._name)
                return
            pending = [record for record in pending if self._is_unfinished(record)]

    @asynccontextmanager
    async def held(self, within_s: float | None) -> AsyncIterator[None]:
        """Nothing else calls the stage in here; a call under way is cut short after ``within_s`` seconds."""
        self._cut(within_s)
        async with self._turn:
            yield

    async def until_taken(self, call: Callable[[], Coroutine[Any, Any, None]], going_on: Callable[[], bool]) -> bool:
        """Inside :meth:`held`: repeat a call while it raises Retry, ``going_on`` and not closed.

        Returns whether it succeeded. Raises Fatal, also for any other failure.
        """
        return await self._until_taken(call, going_on, nullcontext())

    async def close(self, within_s: float) -> None:
        """Deliver nothing more. Waits between tries end at once, a call under way after ``within_s`` seconds."""
        self._closed.set()
        self._cut(within_s)
        async with self._turn:
            pass

    def _cut(self, within_s: float | None) -> None:
        if self._scope is not None and within_s is not None:
            self._scope.reschedule(asyncio.get_running_loop().time() + within_s)

    async def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scope = scope
                await coroutine
        except TimeoutError:
            if scope.expired():
                raise Interrupted from None
            raise
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not we were cancelled but something the stage waited for: that is a failure of its own.
            raise RuntimeError(f"something that stage {self._name} awaited was cancelled") from cancelled
        except OwnershipLost as lost:
            raise Fatal(f"stage {self._name} lost its partitions: {lost}") from lost
        finally:
            self._scope = None

    async def _one_by_one(self, records: Sequence[Record]) -> None:
        for record in records:
            failures = 0
            while self._is_unfinished(record) and not self._closed.is_set():
                try:
                    async with self._turn:
                        await self._call(self._stage.process((record,), self._done))
                except Interrupted:
                    continue
                except Retry as failure:
                    await self._pause(failure, 1)
                except Fatal:
                    self._metrics.inc("engine_failures_total", stage=self._name, kind="fatal")
                    raise
                except Exception as failure:  # noqa: BLE001 - see above
                    self._bug(failure, 1)
                    failures += 1
                    if isinstance(failure, Poison) or failures == TRIES:
                        await self._poisoned(record, failure)
                        break
                else:
                    break

    async def _poisoned(self, record: Record, failure: Exception) -> None:
        _log.error(
            "a record failed every try and is given its terminal",
            stage=self._name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=type(failure).__name__,
        )
        self._metrics.inc("engine_poisoned_total", stage=self._name)
        given = await self._until_taken(
            lambda: self._stage.poisoned(record, failure), lambda: self._is_unfinished(record), self._turn
        )
        if given:
            self._done(record)

    async def _until_taken(
        self,
        call: Callable[[], Coroutine[Any, Any, None]],
        going_on: Callable[[], bool],
        turn: AbstractAsyncContextManager[None],
    ) -> bool:
        while going_on() and not self._closed.is_set():
            try:
                # Not held between tries: a rebalance must not wait for what the stage waits for.
                async with turn:
                    await self._call(call())
            except Interrupted:
                continue
            except Retry as failure:
                await self._pause(failure, 0)
            except Fatal:
                raise
            except Exception as failure:
                raise Fatal(f"stage {self._name} failed outside of a batch: {failure!r}") from failure
            else:
                return True
        return False

    def _bug(self, failure: Exception, records: int) -> None:
        self._metrics.inc("engine_failures_total", stage=self._name, kind="bug")
        _log.error("the stage raised; its records are tried one by one", stage=self._name, records=records,
                   exc_info=failure)  # fmt: skip

    async def _pause(self, failure: Retry, records: int) -> None:
        self._metrics.inc("engine_failures_total", stage=self._name, kind="retry")
        _log.warning("something the stage needs is not available", stage=self._name, records=records,
                     after_s=failure.after, reason=str(failure))  # fmt: skip
        try:
            await asyncio.wait_for(self._closed.wait(), failure.after)
        except TimeoutError:
            return
