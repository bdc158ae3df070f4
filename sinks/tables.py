"""The tables sinks write, as the writer needs them: columns with their ClickHouse types, topic, model, row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairlane.ports import Record
from fairlane.schemas.base import WireModel
from fairlane.schemas.topics import TopicSpec
from fairlane.sinks.base import Entry, Row

_TIME = "DateTime64(3, 'UTC')"


@dataclass(frozen=True, slots=True)
class Table:
    """One table. ``columns`` are (name, type) in the order of a row; ``types`` mirror the migration."""

    name: str
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [name for name, _ in self.columns]

    @property
    def types(self) -> list[str]:
        """ClickHouse types in order."""
        return [kind for _, kind in self.columns]


@dataclass(frozen=True, slots=True)
class Feed:
    """What becomes of one topic's records.

    ``row`` makes a row of a decoded record, or raises Poison. ``key`` names what may have one row only: a later
    record of the same key is skipped; None where every record is a row.
    """

    topic: TopicSpec
    table: Table
    model: type[WireModel]
    row: Callable[[Any, Record], Row]
    key: Callable[[Any, Record], bytes] | None = None
    unless_present: Callable[[Any], tuple[str, str] | None] | None = None

    def entry(self, model: WireModel, record: Record) -> Entry:
        """The entry of a record that counts; raises Poison."""
        ask = self.unless_present(model) if self.unless_present is not None else None
        return Entry(record.offset, self.row(model, record), ask)


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (line.strip().split(" ", 1) for line in text.strip().splitlines())
    return tuple((name, kind) for name, kind in pairs)


REQUESTS = Table("requests", _columns(f"""
    tenant_id LowCardinality(String)
    request_id String
    idempotency_key String
    status LowCardinality(String)
    error_code LowCardinality(String)
    priority LowCardinality(String)
    pool LowCardinality(String)
    provider LowCardinality(String)
    model LowCardinality(String)
    route String
    received_at {_TIME}
    admitted_at Nullable({_TIME})
    dispatched_at Nullable({_TIME})
    first_token_at Nullable({_TIME})
    completed_at {_TIME}
    event_time {_TIME}
    queue_ms Float64
    model_ms Float64
    added_ms Float64
    input_tokens UInt64
    cached_input_tokens UInt64
    output_tokens UInt64
    reasoning_tokens UInt64
    cost_nano_usd Int64
    price_id LowCardinality(String)
    attempts UInt32
    cached Bool
    replayed Bool
    labels Map(LowCardinality(String), String)
    config_version LowCardinality(String)
    trace_id String
    log_partition UInt32
    log_offset UInt64
"""))  # fmt: skip

ATTEMPTS = Table("attempts", _columns(f"""
    tenant_id LowCardinality(String)
    request_id String
    attempt_id String
    attempt UInt32
    status LowCardinality(String)
    error_code LowCardinality(String)
    pool LowCardinality(String)
    provider LowCardinality(String)
    model LowCardinality(String)
    worker LowCardinality(String)
    started_at {_TIME}
    first_token_at Nullable({_TIME})
    completed_at {_TIME}
    event_time {_TIME}
    model_ms Float64
    http_status Nullable(UInt16)
    provider_request_id String
    finish_reason LowCardinality(String)
    input_tokens UInt64
    cached_input_tokens UInt64
    output_tokens UInt64
    reasoning_tokens UInt64
    cost_nano_usd Int64
    price_id LowCardinality(String)
    config_version LowCardinality(String)
    trace_id String
    log_partition UInt32
    log_offset UInt64
"""))  # fmt: skip

DECISIONS = Table("decisions", _columns(f"""
    tenant_id LowCardinality(String)
    request_id String
    decision_id String
    event_time {_TIME}
    stage LowCardinality(String)
    kind LowCardinality(String)
    reason_code LowCardinality(String)
    reason_message String
    reason_limit Nullable(Int64)
    reason_used Nullable(Int64)
    reason_unit LowCardinality(String)
    reason_suggestion String
    attributes Map(LowCardinality(String), String)
    config_version LowCardinality(String)
    trace_id String
    log_partition UInt32
    log_offset UInt64
"""))  # fmt: skip

DEAD_LETTERS = Table("dead_letters", _columns(f"""
    dead_letter_id String
    event_time {_TIME}
    stage LowCardinality(String)
    source_topic LowCardinality(String)
    source_partition UInt32
    source_offset UInt64
    tenant_id LowCardinality(String)
    request_id String
    error_code LowCardinality(String)
    error_message String
    error_field String
    error_hint String
    retryable Bool
    payload_bytes UInt64
    payload_sha256 String
    redriven_at Nullable({_TIME})
    config_version LowCardinality(String)
    log_partition UInt32
    log_offset UInt64
"""))  # fmt: skip

TABLES: tuple[Table, ...] = (REQUESTS, ATTEMPTS, DECISIONS, DEAD_LETTERS)
