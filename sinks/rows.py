"""From models to rows: one function per table, and the feeds that say which topic fills which table.

Times are milliseconds since the epoch, taken from the event; an absent text is an empty one. To add a
column: a new migration, the table in :mod:`fairlane.sinks.tables`, its value here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fairlane.errors import Poison
from fairlane.ports import Record
from fairlane.schemas import topics
from fairlane.schemas.attempt import Attempt
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision
from fairlane.schemas.headers import TRACEPARENT, header, trace_id
from fairlane.schemas.result import Result, Route
from fairlane.sinks.base import Row
from fairlane.sinks.tables import ATTEMPTS, DEAD_LETTERS, DECISIONS, REQUESTS, Feed

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(2106, 1, 1, tzinfo=UTC)
"""ClickHouse's DateTime, in which retention is computed, wraps on 2106-02-07."""
_MILLISECOND = timedelta(milliseconds=1)
_NO_ROUTE = Route(pool="", provider="", model="", reason="")


def _ms(value: datetime) -> int:
    if not _EPOCH <= value < _END:
        raise Poison(f"time {value.isoformat()} is outside of what tables can keep (1970 to 2105)")
    return (value - _EPOCH) // _MILLISECOND


def _ms_or_none(value: datetime | None) -> int | None:
    return None if value is None else _ms(value)


def _whole(value: int, bits: int, field: str) -> int:
    if not 0 <= value < 1 << bits:
        raise Poison(f"{field} is outside of what the table can keep (0 to 2^{bits}-1)")
    return value


def _signed(value: int | None, field: str) -> int | None:
    if value is not None and not -(1 << 63) <= value < 1 << 63:
        raise Poison(f"{field} is outside of what the table can keep (64 bits)")
    return value


def request_row(result: Result, record: Record) -> Row:
    """The row of a terminal result in ``requests``; raises Poison for values no column can hold."""
    timings, usage, route = result.timings, result.usage, result.route or _NO_ROUTE
    completed_ms = _ms(timings.completed_at)
    return (
        result.tenant_id,
        result.request_id,
        result.idempotency_key or "",
        result.status.value,
        result.error.code.value if result.error is not None else "",
        result.priority or "",
        route.pool,
        route.provider,
        route.model,
        route.reason,
        _ms(timings.received_at),
        _ms_or_none(timings.admitted_at),
        _ms_or_none(timings.dispatched_at),
        _ms_or_none(timings.first_token_at),
        completed_ms,
        completed_ms,
        timings.queue_ms,
        timings.model_ms,
        timings.added_ms,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        result.cost.nano_usd,
        result.cost.price_id or "",
        _whole(result.attempts, 32, "attempts"),
        result.cached,
        result.replayed,
        result.labels,
        result.config_version,
        trace_id(header(record.headers, TRACEPARENT)) or "",
        record.partition,
        record.offset,
    )


def attempt_row(attempt: Attempt, record: Record) -> Row:
    """The row of one provider call in ``attempts``; raises Poison for values no column can hold."""
    usage, completed_ms = attempt.usage, _ms(attempt.completed_at)
    return (
        attempt.tenant_id,
        attempt.request_id,
        attempt.attempt_id,
        _whole(attempt.attempt, 32, "attempt"),
        attempt.status.value,
        attempt.error.code.value if attempt.error is not None else "",
        attempt.pool,
        attempt.provider,
        attempt.model,
        attempt.worker,
        _ms(attempt.started_at),
        _ms_or_none(attempt.first_token_at),
        completed_ms,
        completed_ms,
        attempt.model_ms,
        None if attempt.http_status is None else _whole(attempt.http_status, 16, "http_status"),
        attempt.provider_request_id or "",
        attempt.finish_reason or "",
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        attempt.cost.nano_usd,
        attempt.cost.price_id or "",
        attempt.config_version,
        attempt.trace_id or "",
        record.partition,
        record.offset,
    )


def decision_row(decision: Decision, record: Record) -> Row:
    """The row of one decision in ``decisions``; raises Poison for values no column can hold."""
    reason = decision.reason
    return (
        decision.tenant_id or "",
        decision.request_id or "",
        decision.decision_id,
        _ms(decision.event_time),
        decision.stage,
        decision.kind.value,
        reason.code,
        reason.message,
        _signed(reason.limit, "reason.limit"),
        _signed(reason.used, "reason.used"),
        reason.unit or "",
        reason.suggestion or "",
        decision.attributes,
        decision.config_version,
        decision.trace_id or "",
        record.partition,
        record.offset,
    )


def dead_letter_row(letter: DeadLetter, record: Record) -> Row:
    """The row of one dead letter in ``dead_letters``; raises Poison for values no column can hold."""
    return (
        letter.dead_letter_id,
        _ms(letter.event_time),
        letter.stage,
        letter.source_topic,
        _whole(letter.source_partition, 32, "source_partition"),
        _whole(letter.source_offset, 63, "source_offset"),
        letter.tenant_id or "",
        letter.request_id or "",
        letter.error.code.value,
        letter.error.message,
        letter.error.field or "",
        letter.error.hint or "",
        letter.error.retryable,
        _whole(letter.payload_bytes, 63, "payload_bytes"),
        letter.payload_sha256,
        _ms_or_none(letter.redriven_at),
        letter.config_version,
        record.partition,
        record.offset,
    )


def _request_key(result: Result, record: Record) -> bytes:
    # The first record of a key wins, so a record under another request's key would take its place.
    key = topics.request_key(result.tenant_id, result.request_id)
    if record.key != key:
        raise Poison("the record's key is not tenant_id/request_id of its value")
    return key


def _replayed(result: Result) -> tuple[str, str] | None:
    return (result.tenant_id, result.request_id) if result.replayed else None


FEEDS: tuple[Feed, ...] = (
    Feed(topics.RESULTS, REQUESTS, Result, request_row, key=_request_key, unless_present=_replayed),
    Feed(topics.ATTEMPTS, ATTEMPTS, Attempt, attempt_row),
    Feed(topics.DECISIONS, DECISIONS, Decision, decision_row, key=lambda decision, _: decision.decision_id.encode()),
    Feed(topics.DEAD_LETTERS, DEAD_LETTERS, DeadLetter, dead_letter_row),
)
"""Which topic fills which table. A decision published twice has the same id; attempts and dead letters
are facts each time."""


def feeds_by_topic(topic_prefix: str) -> dict[str, Feed]:
    """The feeds by the full names of their topics."""
    return {feed.topic.full_name(topic_prefix): feed for feed in FEEDS}
