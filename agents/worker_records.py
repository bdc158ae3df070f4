"""What a worker writes for a job: attempts, the result, decisions and chunks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fairlane.agents.effects import source_of
from fairlane.agents.model_calls import CallOutcome
from fairlane.agents.outgoing import PublicRecords, decision_id
from fairlane.agents.poison_terminals import PoisonTerminals
from fairlane.agents.topic_names import TopicNames
from fairlane.errors import Poison
from fairlane.policy.pricing import PriceRow, cost
from fairlane.ports import Outgoing, Record
from fairlane.schemas.attempt import Attempt, AttemptStatus
from fairlane.schemas.base import timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.headers import IDENTITY, SLOT, TICKET, header, only, traceparent_of
from fairlane.schemas.job import Dispatch, Job, Ticket
from fairlane.schemas.result import Cost, Result, Route, Status, Timings, Usage

STAGE = "worker"


@dataclass(frozen=True, slots=True)
class Work:
    """An inbox record, decoded."""

    record: Record
    job: Job
    ticket: Ticket
    dispatched_ms: int
    source: bytes
    traceparent: bytes | None

    @classmethod
    def of(cls, record: Record, dispatch: Dispatch | None) -> Work:
        """Decode; raises Poison for a record that no dispatcher wrote. ``dispatch`` is its header, if readable."""
        raw = header(record.headers, TICKET)
        if record.value is None or raw is None:
            raise Poison("an inbox record without job or ticket")
        try:
            job, ticket = decode(Job, record.value), decode(Ticket, raw)
        except DecodeError as failure:
            raise Poison(f"an inbox record that cannot be read: {failure}") from None
        if not ticket.names(job):
            # The slot it holds is freed by a result of the request that its ticket names.
            raise Poison("an inbox record whose job is not the request that its ticket names")
        dispatched_ms = dispatch.dispatched_ms if dispatch is not None else record.timestamp_ms
        return cls(record, job, ticket, dispatched_ms, source_of(record), traceparent_of(record.headers))

    @property
    def deadline_ms(self) -> int | None:
        """Milliseconds since the epoch."""
        return timestamp_to_ms(self.job.deadline) if self.job.deadline is not None else None


@dataclass(frozen=True, slots=True)
class Bill:
    """What a request costs; ``above_hold`` is what its usage would have cost beyond the hold, in nano-dollars."""

    cost: Cost
    above_hold: int


def bill(job: Job, usages: Sequence[Usage]) -> Bill:
    """The price of the usage of all calls, at the price fixed on admission, capped at the hold.

    The hold is the highest price of the prompt's upper bound and the output limit, so only a provider
    that ignores the limit can exceed it. Then the tenant is billed the hold: the difference is ours
    to argue with the provider, while a budget once overshot cannot be taken back.
    """
    route = job.route
    row = PriceRow(route.price_id, 0, route.input_price, route.cached_input_price, route.output_price)
    exact = sum(cost(row, usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) for usage in usages)
    billed = min(exact, job.hold_nano_usd)
    return Bill(Cost(nano_usd=billed, price_id=route.price_id), exact - billed)


class WorkerRecords:
    """Builds the records of one worker process."""

    def __init__(self, names: TopicNames, process: str) -> None:
        self._names = names
        self._process = process
        self._public = PublicRecords(names, STAGE)
        self._poison = PoisonTerminals(names, STAGE)

    def attempt(self, work: Work, outcome: CallOutcome, billed: Bill) -> Outgoing:
        """The record of a call that ended; ``billed`` is what its usage comes to."""
        completion = outcome.completion
        attempt = Attempt(
            **self._attempt_fields(work, outcome.number),
            status=AttemptStatus.SUCCEEDED if completion is not None else AttemptStatus.FAILED,
            started_at=timestamp_from_ms(outcome.started_ms),
            first_token_at=_timestamp(outcome.first_token_ms),
            completed_at=timestamp_from_ms(outcome.completed_ms),
            model_ms=outcome.model_ms,
            http_status=outcome.http_status,
            provider_request_id=outcome.provider_request_id,
            finish_reason=completion.finish_reason if completion is not None else None,
            error=outcome.failure,
            usage=outcome.usage,
            usage_estimated=outcome.usage_estimated,
            cost=billed.cost,
        )
        return self._public.attempt(attempt, work.source, traceparent=work.traceparent)

    def untold(self, work: Work, result: Result) -> Outgoing:
        """The record of the call that a result came from, as far as the result tells."""
        timings, succeeded = result.timings, result.status is Status.SUCCEEDED
        attempt = Attempt(
            **self._attempt_fields(work, result.attempts),
            status=AttemptStatus.SUCCEEDED if succeeded else AttemptStatus.FAILED,
            started_at=timings.completed_at - timedelta(milliseconds=timings.model_ms),
            first_token_at=timings.first_token_at,
            completed_at=timings.completed_at,
            model_ms=timings.model_ms,
            error=result.error,
            usage=result.usage,
            cost=result.cost,
        )
        return self._public.attempt(attempt, work.source, traceparent=work.traceparent)

    def called_again(
        self, work: Work, abandoned: int | None, number: int, config_version: str, now_ms: int
    ) -> list[Outgoing]:
        """The decision to make call ``number`` for a job that a predecessor had, after the record of its call
        ``abandoned``, which nobody told about.
        """
        now = timestamp_from_ms(now_ms)
        attributes, records = {"next_attempt": str(number)}, []
        message = f"the worker before had this request; its attempt {number - 1} ended without a result"
        if abandoned is not None:
            attributes["abandoned_attempt"] = str(abandoned)
            message = f"the worker before had this request; whether attempt {abandoned} reached the provider is unknown"
            attempt = Attempt(
                **self._attempt_fields(work, abandoned),
                status=AttemptStatus.ABANDONED,
                started_at=timestamp_from_ms(work.dispatched_ms),
                completed_at=timestamp_from_ms(max(now_ms, work.dispatched_ms)),
            )
            records.append(self._public.attempt(attempt, work.source, traceparent=work.traceparent))
        decision = Decision(
            decision_id=f"{decision_id(work.source, DecisionKind.REDELIVERED.value)}/{number}",
            event_time=now,
            stage=STAGE,
            kind=DecisionKind.REDELIVERED,
            tenant_id=work.job.tenant_id,
            request_id=work.job.request_id,
            reason=Reason(code="worker_taken_over", message=message),
            attributes=attributes,
            config_version=config_version,
            trace_id=work.ticket.trace_id,
        )
        return [*records, self._public.decision(decision, work.source, traceparent=work.traceparent)]

    def answered(
        self, work: Work, outcomes: Sequence[CallOutcome], attempts: int, billed: Bill, now_ms: int
    ) -> Outgoing:
        """The result of the last call; earlier ones count in its time and in ``billed``, which is for all."""
        last = outcomes[-1]
        if last.completion is not None:
            return self._result(work, Status.SUCCEEDED, None, outcomes, attempts, billed, now_ms)
        assert last.failure is not None
        return self._result(work, Status.FAILED, last.failure, outcomes, attempts, billed, now_ms)

    def failed(
        self, work: Work, detail: ErrorDetail, outcomes: Sequence[CallOutcome], attempts: int, now_ms: int
    ) -> Outgoing:
        """A result without an answer; calls that were made are still billed."""
        return self._result(work, Status.FAILED, detail, outcomes, attempts, _billed(work, outcomes), now_ms)

    def expired(
        self, work: Work, outcomes: Sequence[CallOutcome], attempts: int, config_version: str, now_ms: int
    ) -> list[Outgoing]:
        """The result of a request whose deadline passed before or during its call, and the decision."""
        where = "while the provider was answering" if outcomes else "before a worker could call the provider"
        detail = error(ErrorCode.DEADLINE_EXCEEDED, f"the deadline passed {where}", field="deadline")
        decision = Decision(
            decision_id=decision_id(work.source, DecisionKind.EXPIRED.value),
            event_time=timestamp_from_ms(now_ms),
            stage=STAGE,
            kind=DecisionKind.EXPIRED,
            tenant_id=work.job.tenant_id,
            request_id=work.job.request_id,
            reason=Reason(code=detail.code.value, message=detail.message, suggestion=detail.hint),
            attributes={"pool": work.job.route.pool, "model": work.job.route.model},
            config_version=config_version,
            trace_id=work.ticket.trace_id,
        )
        return [
            self._result(work, Status.EXPIRED, detail, outcomes, attempts, _billed(work, outcomes), now_ms),
            self._public.decision(decision, work.source, traceparent=work.traceparent),
        ]

    def chunk(self, work: Work, number: int, sequence: int, event: dict[str, Any], last: bool, now_ms: int) -> Outgoing:
        """A piece of the stream of call ``number``; the last one is empty."""
        chunk = Chunk(
            request_id=work.job.request_id,
            tenant_id=work.job.tenant_id,
            attempt=number,
            sequence=sequence,
            event_time=timestamp_from_ms(now_ms),
            delta=event,
            last=last,
        )
        return self._public.chunk(chunk, work.source, traceparent=work.traceparent)

    def poisoned(self, record: Record, failure: Exception, config_version: str, now_ms: int) -> Outgoing:
        """The terminal of a record that no code can work on: a result if it names its request."""
        terminal = self._poison.made(record, failure, config_version, now_ms)
        return self._poison.outgoing(record, terminal, extra=((SLOT, self._slot(record, Usage())),))

    def _result(
        self,
        work: Work,
        status: Status,
        detail: ErrorDetail | None,
        outcomes: Sequence[CallOutcome],
        attempts: int,
        billed: Bill,
        now_ms: int,
    ) -> Outgoing:
        job, route = work.job, work.job.route
        usage = _sum([outcome.usage for outcome in outcomes])
        completion = outcomes[-1].completion if outcomes and status is Status.SUCCEEDED else None
        received_ms, admitted_ms = timestamp_to_ms(job.received_at), timestamp_to_ms(job.admitted_at)
        completed_ms = max(now_ms, received_ms)
        queue_ms = float(max(0, work.dispatched_ms - admitted_ms))
        model_ms = sum(outcome.model_ms for outcome in outcomes)
        result = Result(
            request_id=job.request_id,
            tenant_id=job.tenant_id,
            idempotency_key=job.idempotency_key,
            priority=job.priority,
            status=status,
            response=dict(completion.response) if completion is not None else None,
            error=detail,
            usage=usage,
            cost=billed.cost,
            route=Route(pool=route.pool, provider=route.provider, model=route.model, reason=route.reason),
            timings=Timings(
                received_at=job.received_at,
                admitted_at=job.admitted_at,
                dispatched_at=timestamp_from_ms(work.dispatched_ms),
                first_token_at=_timestamp(outcomes[-1].first_token_ms) if outcomes else None,
                completed_at=timestamp_from_ms(completed_ms),
                queue_ms=queue_ms,
                model_ms=model_ms,
                added_ms=max(0.0, completed_ms - received_ms - queue_ms - model_ms),
            ),
            attempts=attempts,
            labels=job.labels,
            config_version=job.config_version,
        )
        extra = ((SLOT, self._slot(work.record, usage)), *only(work.record.headers, IDENTITY))
        return self._public.result(result, work.source, traceparent=work.traceparent, extra=extra)

    def _slot(self, record: Record, usage: Usage) -> bytes:
        pool = self._names.pool_of(record.topic)
        return f"{pool}/{record.partition}/{usage.input_tokens}/{usage.output_tokens}".encode()

    def _attempt_fields(self, work: Work, number: int) -> dict[str, Any]:
        job = work.job
        return {
            "attempt_id": f"{job.tenant_id}/{job.request_id}/{number}",
            "request_id": job.request_id,
            "tenant_id": job.tenant_id,
            "attempt": number,
            "pool": job.route.pool,
            "provider": job.route.provider,
            "model": job.route.model,
            "worker": self._process,
            "config_version": job.config_version,
            "trace_id": work.ticket.trace_id,
        }


def _billed(work: Work, outcomes: Sequence[CallOutcome]) -> Bill:
    return bill(work.job, [outcome.usage for outcome in outcomes])


def _sum(usages: Sequence[Usage]) -> Usage:
    if len(usages) == 1:
        return usages[0]
    return Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        cached_input_tokens=sum(usage.cached_input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )


def _timestamp(milliseconds: int | None) -> datetime | None:
    return timestamp_from_ms(milliseconds) if milliseconds is not None else None
