"""The worker: calls the model for each inbox record and writes exactly one terminal result.

Records of a partition finish in any order. Each is a task of its own from the moment it is taken
until its attempt and its result are in the log; only then is it done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlane.agents.effect_writer import EffectWriter
from fairlane.agents.inbox_epochs import dispatch_of, encode_note
from fairlane.agents.model_calls import CallOutcome, ModelCalls
from fairlane.agents.topic_names import TopicNames
from fairlane.agents.worker_records import Bill, Work, WorkerRecords, bill
from fairlane.agents.worker_takeover import Begun, Inheritance, inherit
from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison
from fairlane.ports import (
    Done,
    LogReader,
    Outgoing,
    Provider,
    Publisher,
    Record,
    Restored,
    TopicPartition,
)
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.job import Dispatch
from fairlane.schemas.result import Result
from fairlane.telemetry import Metrics, debug_wanted, get_logger

_log = get_logger(__name__)

IN_FLIGHT_MAX = 1024
"""Calls at once in one process. The dispatcher's slots bound them first; this holds if it errs."""

Story = Callable[[], Coroutine[Any, Any, None]]
"""All that is to be written about a record."""


@dataclass(slots=True)
class _Flight:
    """A record from the moment it is taken until it is done."""

    record: Record
    done: Done
    task: asyncio.Task[None] | None = None


class Worker:
    """A :class:`~fairlane.ports.Stage` over the inboxes of all pools."""

    def __init__(
        self,
        *,
        names: TopicNames,
        publisher: Publisher,
        reader: LogReader,
        providers: Mapping[str, Provider],
        config_version: Callable[[], str],
        clock: Clock,
        metrics: Metrics,
        process: str,
        lease_ok: Callable[[], bool],
        fail: Callable[[BaseException], None],
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        self._names = names
        self._publisher = publisher
        self._reader = reader
        self._calls = ModelCalls(providers, clock)
        self._config_version = config_version
        self._clock = clock
        self._metrics = metrics
        self._fail = fail
        self._in_flight_max = in_flight_max
        self._records = WorkerRecords(names, process)
        self._writer = EffectWriter(
            publisher,
            reader,
            clock,
            lease_ok=lease_ok,
            held=lambda: metrics.inc("worker_results_held_total"),
        )
        self._owned: dict[TopicPartition, Inheritance] = {}
        self._next: dict[TopicPartition, int] = {}
        self._flights: dict[TopicPartition, dict[int, _Flight]] = {}
        self._in_flight = 0
        self._freed = asyncio.Event()
        self._draining = False
        self._drained = False

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        """Learn what the predecessor answered and what it may have begun. Raises Retry."""
        inherited = await inherit(self._reader, self._names, partitions)
        for tp, inheritance in inherited.items():
            self._owned[tp] = inheritance
            self._next[tp] = partitions[tp].offset
            self._flights.setdefault(tp, {})

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        """Start a task for each record; waits only while ``in_flight_max`` calls are in flight."""
        for record in batch:
            if self._draining:
                return
            flight = self._flights.get(record.tp, {}).get(record.offset)
            if flight is not None:
                # Given back by the engine after a failure of the batch, but still being worked on.
                flight.done = done
                continue
            await self._room()
            # Looked up after waiting: the partition may have gone meanwhile.
            owned = self._owned.get(record.tp)
            if owned is not None:
                self._next[record.tp] = max(self._next[record.tp], record.offset + 1)
                self._take(record, done, owned)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        """A record that cannot be worked on fails, or becomes a dead letter if it names no request."""
        _log.error(
            "worker_poison",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=f"{type(failure).__name__}: {failure}" if isinstance(failure, Poison) else type(failure).__name__,
        )
        terminal = self._records.poisoned(record, failure, self._config_version(), self._clock.now_ms())
        await self._writer.write([terminal])

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Give up the calls of these; their next owner tells about them and calls again."""
        tasks: list[asyncio.Task[None]] = []
        for tp in partitions:
            self._owned.pop(tp, None)
            self._next.pop(tp, None)
            for flight in self._flights.pop(tp, {}).values():
                self._metrics.inc("worker_abandoned_total", pool=self._names.pool_of(tp.topic))
                if flight.task is not None:
                    flight.task.cancel()
                    tasks.append(flight.task)
        if tasks:
            _log.warning("calls_abandoned", count=len(tasks), partitions=len(partitions))
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self) -> None:
        """Take nothing more and wait for the calls in flight; cancelled, give up those that are left."""
        self._draining = True
        try:
            while tasks := self._tasks():
                await asyncio.wait(tasks)
        finally:
            left = self._tasks()
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            self._drained = not any(self._flights.values())

    def note(self, partition: TopicPartition) -> str:
        """The dispatcher epoch at the committed position, and whether nothing was left begun."""
        owned = self._owned.get(partition)
        if owned is None:
            return ""
        lowest = min(self._flights.get(partition, {}), default=self._next[partition])
        # What a predecessor left and what has not come again since is still to be suspected.
        clean = self._drained and not owned.begun and not owned.answered
        return encode_note(owned.fence.base_at(lowest), clean=clean)

    def _tasks(self) -> set[asyncio.Task[None]]:
        flights = (flight for flights in self._flights.values() for flight in flights.values())
        return {flight.task for flight in flights if flight.task is not None and not flight.task.done()}

    async def _room(self) -> None:
        if self._in_flight < self._in_flight_max:
            return
        self._metrics.inc("worker_full_total")
        while self._in_flight >= self._in_flight_max:
            self._freed.clear()
            await self._freed.wait()

    def _take(self, record: Record, done: Done, owned: Inheritance) -> None:
        self._writer.heard(record)
        pool = self._names.pool_of(record.topic)
        dispatch = dispatch_of(record)
        if dispatch is not None and not owned.fence.admits(record.offset, dispatch.epoch):
            self._metrics.inc("worker_void_records_total", pool=pool)
            done(record)
        elif record.value is None:
            done(record)
        elif record.offset in owned.answered:
            untold = owned.answered.pop(record.offset)
            self._metrics.inc("worker_redelivered_total", pool=pool, outcome="answered")
            if untold is None:
                done(record)
            else:
                self._launch(_Flight(record, done), lambda: self._tell(Work.of(record, dispatch), untold))
        else:
            begun = owned.begun.pop(record.offset, None)
            if begun is not None:
                self._metrics.inc("worker_redelivered_total", pool=pool, outcome="called_again")
            self._launch(_Flight(record, done), lambda: self._serve(record, dispatch, begun))

    def _launch(self, flight: _Flight, story: Story) -> None:
        self._flights[flight.record.tp][flight.record.offset] = flight
        self._in_flight += 1
        self._metrics.set("worker_in_flight", self._in_flight)
        flight.task = asyncio.create_task(self._fly(flight, story))

    async def _fly(self, flight: _Flight, story: Story) -> None:
        record = flight.record
        try:
            try:
                await story()
            except Fatal:
                raise
            except Exception as failure:  # noqa: BLE001 - whatever it is, the request gets its terminal
                if not isinstance(failure, Poison):
                    _log.exception("worker_failed", partition=record.partition, offset=record.offset)
                await self.poisoned(record, failure)
            flight.done(record)
            self._flights.get(record.tp, {}).pop(record.offset, None)
        except Exception as failure:  # noqa: BLE001 - no task ends unseen: the process stops, its successor redoes it
            self._fail(failure if isinstance(failure, Fatal) else Fatal(f"a worker task failed: {failure}"))
        finally:
            self._in_flight -= 1
            self._metrics.set("worker_in_flight", self._in_flight)
            self._freed.set()

    async def _tell(self, work: Work, result: Result) -> None:
        """The result stands in the log, the call behind it does not: its worker died between the two writes."""
        await self._writer.write([self._records.untold(work, result)])

    async def _serve(self, record: Record, dispatch: Dispatch | None, begun: Begun | None) -> None:
        """Call, then write everything about it. Retries, fallback and the breaker belong between the two."""
        if dispatch is None:
            # Whoever wrote it, the request has no slot, and its admission was asked of nobody.
            raise Poison("an inbox record that no dispatcher wrote")
        work, number = Work.of(record, dispatch), 1
        if begun is not None:
            number = begun.following
            # Before the call: should this process die as well, its successor can go on counting.
            await self._writer.write(
                self._records.called_again(work, begun.abandoned, number, self._config_version(), self._clock.now_ms())
            )
        # What a process finds in its buffers when it was stopped and goes on is another's by then, and called already.
        await self._writer.lease()
        route = work.job.route
        now_ms = self._clock.now_ms()
        left_ms = work.deadline_ms - now_ms if work.deadline_ms is not None else route.timeout_ms
        if left_ms <= 0:
            await self._writer.write(self._expired(work, [], number - 1))
            return
        if not self._calls.knows(route.kind):
            detail = error(
                ErrorCode.INTERNAL,
                f"this worker has no adapter for providers of kind {route.kind}",
                hint="Bring the workers and the catalog to the same version.",
            )
            await self._writer.write([self._records.failed(work, detail, [], number - 1, now_ms)])
            return
        outcome = await self._call(work, number, min(route.timeout_ms, left_ms))
        billed = bill(work.job, [outcome.usage])
        self._check_bill(work, billed)
        timed_out = outcome.failure is not None and outcome.failure.code is ErrorCode.PROVIDER_TIMEOUT
        if timed_out and left_ms <= route.timeout_ms:
            terminal = self._expired(work, [outcome], number)
        else:
            terminal = [self._records.answered(work, [outcome], number, billed, self._clock.now_ms())]
        if debug_wanted():
            _log.debug(
                "call_ended",
                tenant_id=work.job.tenant_id,
                request_id=work.job.request_id,
                trace_id=work.ticket.trace_id,
                provider=route.provider,
                model=route.model,
                attempt=number,
                status="succeeded" if outcome.failure is None else outcome.failure.code.value,
                duration_ms=round(outcome.model_ms),
            )
        refused = await self._writer.write([self._records.attempt(work, outcome, billed), *terminal])
        if terminal[0] in refused:
            self._metrics.inc("worker_answers_too_large_total", provider=route.provider, model=route.model)
            detail = error(
                ErrorCode.INVALID_RESPONSE,
                "the answer is larger than a record can be",
                hint="Lower max_tokens or n, or raise the size limits of the brokers.",
            )
            await self._writer.write([self._records.failed(work, detail, [outcome], number, self._clock.now_ms())])

    def _expired(self, work: Work, outcomes: Sequence[CallOutcome], attempts: int) -> list[Outgoing]:
        return self._records.expired(work, outcomes, attempts, self._config_version(), self._clock.now_ms())

    async def _call(self, work: Work, number: int, timeout_ms: int) -> CallOutcome:
        def publish_chunk(sequence: int, event: dict[str, Any], last: bool) -> asyncio.Future[Record]:
            now_ms = self._clock.now_ms()
            return self._publisher.send(self._records.chunk(work, number, sequence, event, last, now_ms))

        outcome = await self._calls.call(work.job, number, work.ticket.output_limit, timeout_ms, publish_chunk)
        route = work.job.route
        status = "succeeded" if outcome.failure is None else outcome.failure.code.value
        self._metrics.inc(
            "worker_calls_total", pool=route.pool, provider=route.provider, model=route.model, status=status
        )
        self._metrics.observe(
            "worker_call_seconds", outcome.model_ms / 1000, provider=route.provider, model=route.model
        )
        if outcome.usage_estimated:
            self._metrics.inc("worker_usage_estimated_total", provider=route.provider, model=route.model)
        return outcome

    def _check_bill(self, work: Work, billed: Bill) -> None:
        job = work.job
        if billed.above_hold:
            self._metrics.inc("worker_cost_above_hold_total", provider=job.route.provider, model=job.route.model)
            _log.error(
                "cost_above_hold",
                tenant_id=job.tenant_id,
                request_id=job.request_id,
                provider=job.route.provider,
                model=job.route.model,
                limit=job.hold_nano_usd,
                used=job.hold_nano_usd + billed.above_hold,
            )
