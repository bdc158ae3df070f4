"""What the tests of the worker stand on: a provider that plays a script, and a world around the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.agents.topic_names import TopicNames
from fairlane.agents.worker import Worker
from fairlane.clock import ManualClock
from fairlane.ports import (
    Call,
    Completion,
    Delta,
    Outgoing,
    ProviderError,
    Record,
    Restored,
    TopicPartition,
)
from fairlane.schemas.attempt import Attempt
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.headers import DISPATCH, TICKET, TRACEPARENT, Headers
from fairlane.schemas.job import Dispatch, Job, JobRoute, Ticket
from fairlane.schemas.result import Result, Usage
from fairlane.telemetry import PrometheusMetrics

NAMES = TopicNames("t.")
INBOX = TopicPartition(NAMES.inbox("sim"), 3)
START_MS = 1_795_197_600_000
TRACE = b"00-11111111111111111111111111111111-2222222222222222-01"
RESPONSE = {"object": "chat.completion", "choices": [{"index": 0, "message": {"content": "hi"}}]}
USAGE = Usage(input_tokens=10, output_tokens=20)


class PickyPublisher(MemoryPublisher):
    """Fails with what ``refuse`` gives for a record, or keeps it and then fails with what ``forget`` gives."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.refuse: Callable[[Outgoing], BaseException | None] = lambda _: None
        self.forget: Callable[[Outgoing], BaseException | None] = lambda _: None

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        failed: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        if (failure := self.refuse(record)) is not None:
            failed.set_exception(failure)
            return failed
        kept = super().send(record)
        if (failure := self.forget(record)) is not None:
            failed.set_exception(failure)
            return failed
        return kept


Step = Callable[[Call], Awaitable[Completion]]


@dataclass
class ProviderDouble:
    """Answers as ``step`` says; a stream gives ``deltas`` first."""

    step: Step
    calls: list[Call] = field(default_factory=list)
    deltas: list[dict[str, Any]] = field(default_factory=list)

    async def complete(self, call: Call) -> Completion:
        self.calls.append(call)
        return await self.step(call)

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Completion, None]:
        self.calls.append(call)
        for delta in self.deltas:
            yield Delta(delta)
        yield await self.step(call)

    async def close(self) -> None:
        return None


def completion(usage: Usage = USAGE, **more: Any) -> Completion:
    return Completion(RESPONSE, usage, 200, "p-1", "stop", **more)


def failure(code: ErrorCode, **more: Any) -> ProviderError:
    return ProviderError(error(code), **more)


class World:
    """A worker with everything around it, and the engine's part played by hand."""

    def __init__(self, *, in_flight_max: int = 100) -> None:
        self.clock = ManualClock(START_MS)
        self.log = MemoryLog(self.clock)
        self.log.create_topics(NAMES.prefix, ["sim"])
        self.publisher = PickyPublisher(self.log)
        self.metrics = PrometheusMetrics(process_metrics=False)
        self.provider = ProviderDouble(self.answer_after_seconds(0.2))
        self.lease = True
        self.failures: list[BaseException] = []
        self.done: list[int] = []
        self.in_flight_max = in_flight_max
        self.worker = self.new_worker()

    def new_worker(self, lease_ok: Callable[[], bool] | None = None) -> Worker:
        return Worker(
            names=NAMES,
            publisher=self.publisher,
            reader=MemoryReader(self.log),
            providers={"openai-compatible": self.provider},
            config_version=lambda: "t9-c9",
            clock=self.clock,
            metrics=self.metrics,
            process="worker-1",
            lease_ok=lease_ok or (lambda: self.lease),
            fail=self.failures.append,
            in_flight_max=self.in_flight_max,
        )

    def answer_after_seconds(self, seconds: float, usage: Usage = USAGE) -> Step:
        async def step(_: Call) -> Completion:
            self.clock.advance(seconds)
            return completion(usage)

        return step

    def answer_with(self, outcome: Completion | BaseException) -> None:
        async def step(_: Call) -> Completion:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        self.provider.step = step

    def block(self) -> asyncio.Event:
        """Calls wait until the returned event is set."""
        gate = asyncio.Event()

        async def step(_: Call) -> Completion:
            await gate.wait()
            return completion()

        self.provider.step = step
        return gate

    def dispatch(
        self, request_id: str = "r-1", *, epoch: int = 5, output_limit: int = 100, partition: int = 3, **changes: Any
    ) -> Record:
        """An inbox record, admitted 1 s and received 1.5 s before it is dispatched, now."""
        now_ms = self.clock.now_ms()
        made = job(request_id, now_ms, **changes)
        deadline_ms = int(made.deadline.timestamp() * 1000) if made.deadline is not None else None
        ticket = Ticket(
            tenant_id="acme",
            request_id=request_id,
            priority="normal",
            model="sim-small",
            input_tokens=10,
            output_limit=output_limit,
            received_ms=now_ms - 1_500,
            admitted_ms=now_ms - 1_000,
            deadline_ms=deadline_ms,
            trace_id="1" * 32,
        )
        headers: Headers = ((TICKET, encode(ticket)), (TRACEPARENT, TRACE), self._dispatch_header(epoch))
        return self.log.append(Outgoing(INBOX.topic, f"acme/{request_id}".encode(), encode(made), headers, partition))

    def mark_epoch(self, epoch: int) -> Record:
        return self.log.append(Outgoing(INBOX.topic, b"epoch", None, (self._dispatch_header(epoch),), 3))

    def _dispatch_header(self, epoch: int) -> tuple[str, bytes]:
        return DISPATCH, encode(Dispatch(epoch=epoch, dispatched_ms=self.clock.now_ms()))

    async def assign(self, offset: int = 0, *, finished: frozenset[int] = frozenset(), note: str = "") -> None:
        end = self.log.bounds(INBOX)[1]
        await self.worker.assigned({INBOX: Restored(offset, end, finished, note)})

    async def process(self, *records: Record) -> None:
        await self.worker.process(records, lambda record: self.done.append(record.offset))

    async def settle(self) -> None:
        """Run until no task can go on by itself."""
        for _ in range(200):
            await asyncio.sleep(0)

    async def run(self, *records: Record) -> None:
        await self.process(*records)
        await self.settle()

    def results(self) -> list[Result]:
        return [decode(Result, record.value or b"") for record in self.log.records(NAMES.results)]

    def answered(self) -> list[str]:
        """The requests with a result, once for each."""
        return sorted(result.request_id for result in self.results())

    def attempts(self, request_id: str | None = None) -> list[Attempt]:
        attempts = [decode(Attempt, record.value or b"") for record in self.log.records(NAMES.attempts)]
        return [attempt for attempt in attempts if request_id in {None, attempt.request_id}]

    def metric(self, sample: str) -> float:
        """The value of a sample as exposed, for example ``worker_full_total``; 0 if it has none."""
        for line in self.metrics.exposition().decode().splitlines():
            if line.startswith(f"fairlane_{sample} "):
                return float(line.split()[-1])
        return 0.0


def job(request_id: str, now_ms: int, **changes: Any) -> Job:
    route = JobRoute(
        pool="sim",
        provider="sim",
        kind=changes.pop("kind", "openai-compatible"),
        base_url="http://sim/v1",
        key=None,
        timeout_ms=changes.pop("timeout_ms", 60_000),
        model="sim-small",
        provider_model="sim-small-2026",
        reason="model named by the request",
        price_id="sim-small@2026-11-01",
        input_price=150_000_000,
        cached_input_price=75_000_000,
        output_price=600_000_000,
    )
    fields: dict[str, Any] = {
        "request_id": request_id,
        "tenant_id": "acme",
        "idempotency_key": request_id,
        "priority": "normal",
        "deadline": timestamp_from_ms(now_ms + 600_000),
        "labels": {"project": "search"},
        "body": {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]},
        "route": route,
        "hold_nano_usd": 1_000_000,
        "received_at": timestamp_from_ms(now_ms - 1_500),
        "admitted_at": timestamp_from_ms(now_ms - 1_000),
        "config_version": "t1-c1",
        "traceparent": TRACE.decode(),
    }
    return Job(**(fields | changes))
