"""Where ``fairlane explain`` looks: ClickHouse first, then the log for what is not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fairlane.cli.record_text import fields_of
from fairlane.cli.story import Evidence
from fairlane.errors import Reject
from fairlane.schemas.base import format_timestamp, timestamp_from_ms
from fairlane.schemas.errors import ERRORS, ErrorCode
from fairlane.schemas.topics import (
    ATTEMPTS,
    DEAD_LETTERS,
    DECISIONS,
    REQUESTS,
    RESULTS,
    TopicSpec,
    partition_for,
    request_key,
)

if TYPE_CHECKING:
    from fairlane.ports import LogReader, Record
    from fairlane.sinks.connection import ClickHouseConnection

_REQUEST_COLUMNS = (
    "tenant_id, request_id, idempotency_key, priority, status, error_code, pool, provider, model, route, "
    "toUnixTimestamp64Milli(received_at), toUnixTimestamp64Milli(completed_at), queue_ms, model_ms, added_ms, "
    "input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_nano_usd, price_id, attempts, cached, "
    "replayed, labels, config_version"
)
_ATTEMPT_COLUMNS = (
    "attempt_id, attempt, status, error_code, provider, model, worker, toUnixTimestamp64Milli(started_at), "
    "toUnixTimestamp64Milli(first_token_at), toUnixTimestamp64Milli(completed_at), model_ms, http_status, "
    "finish_reason, input_tokens, output_tokens"
)
_DECISION_COLUMNS = (
    "decision_id, toUnixTimestamp64Milli(event_time), stage, kind, reason_code, reason_message, reason_limit, "
    "reason_used, reason_unit, reason_suggestion, attributes, config_version"
)
_DEAD_LETTER_COLUMNS = (
    "dead_letter_id, toUnixTimestamp64Milli(event_time), stage, error_code, error_message, error_field, error_hint, "
    "toUnixTimestamp64Milli(redriven_at)"
)
_ABOUT = "tenant_id = {tenant:String} AND request_id = {request:String}"


async def tenants_of(store: ClickHouseConnection, database: str, request_id: str) -> list[str]:
    """The tenants that have a request of this id in ClickHouse."""
    rows = await store.rows(
        "SELECT tenant_id FROM {database:Identifier}.decisions WHERE request_id = {request:String} AND tenant_id != '' "
        "UNION DISTINCT SELECT tenant_id FROM {database:Identifier}.requests WHERE request_id = {request:String}",
        {"database": database, "request": request_id},
    )
    return sorted(str(row[0]) for row in rows)


async def from_clickhouse(store: ClickHouseConnection, database: str, evidence: Evidence) -> None:
    """Add what the tables hold. Raises Retry if ClickHouse cannot be reached, Reject if a table is missing."""
    about = {"database": database, "tenant": evidence.tenant_id, "request": evidence.request_id}

    async def rows(columns: str, table: str, order: str, where: str = _ABOUT) -> list[Any]:
        # All that is put together here are constants of this file; values are bound by the server.
        sql = f"SELECT {columns} FROM {{database:Identifier}}.{table} WHERE {where} ORDER BY {order} LIMIT 1000"  # noqa: S608
        return list(await store.rows(sql, about))

    found = await rows(_REQUEST_COLUMNS, "requests", "log_offset")
    if found:
        evidence.result = _result(found[0])
    # Only the answer first given is repeated: not a repetition, and not what a used key was refused for.
    if evidence.result is not None and not evidence.result["replayed"] and evidence.result["status"] != "rejected":
        about["key"] = found[0][2]
        same_key = "tenant_id = {tenant:String} AND idempotency_key = {key:String} AND replayed"
        columns = "request_id, toUnixTimestamp64Milli(completed_at)"
        for request_id, completed_at in await rows(columns, "requests", "completed_at", same_key):
            if request_id != evidence.request_id:
                evidence.replays.append({"request_id": request_id, "completed_at": completed_at})
    evidence.decisions += [_decision(row) for row in await rows(_DECISION_COLUMNS, "decisions", "event_time")]
    evidence.attempts += [_attempt(row) for row in await rows(_ATTEMPT_COLUMNS, "attempts", "attempt")]
    letters = await rows(_DEAD_LETTER_COLUMNS, "dead_letters", "event_time")
    evidence.dead_letters += [_dead_letter(row) for row in letters]
    if not evidence.empty:
        evidence.sources.add("clickhouse")


async def from_log(reader: LogReader, prefix: str, evidence: Evidence, since_ms: int) -> None:
    """Add what the log holds since then (milliseconds since the epoch) and ClickHouse did not have."""
    for spec in (RESULTS, DECISIONS, ATTEMPTS, DEAD_LETTERS):
        await _scan(reader, prefix, spec, evidence, since_ms)
    if evidence.result is None:
        await _scan(reader, prefix, REQUESTS, evidence, since_ms)


async def tenants_in_log(reader: LogReader, prefix: str, request_id: str, since_ms: int) -> list[str]:
    """The tenants that have a request of this id in the log since then."""
    found: set[str] = set()
    for spec in (DECISIONS, RESULTS, REQUESTS):
        topic = spec.full_name(prefix)
        async for batch in reader.read(topic, await reader.offsets_at(topic, since_ms), await reader.ends(topic)):
            for record in batch:
                if request_id.encode() in (record.value or b""):
                    value = fields_of(record)
                    if value.get("request_id") == request_id and isinstance(value.get("tenant_id"), str):
                        found.add(value["tenant_id"])
        if found:
            break
    return sorted(found)


def only_tenant(tenants: list[str], request_id: str) -> str | None:
    """The one tenant, None for none. Raises Reject if several have a request of this id."""
    if len(tenants) > 1:
        raise Reject(f"request {request_id} exists for several tenants: {', '.join(tenants)}; choose one with --tenant")
    return tenants[0] if tenants else None


def _result(row: Any) -> dict[str, Any]:
    (
        tenant_id, request_id, idempotency_key, priority, status, code, pool, provider, model, route, received_ms,
        completed_ms, queue_ms, model_ms, added_ms, input_tokens, cached_input_tokens, output_tokens,
        reasoning_tokens, nano_usd, price_id, attempts, cached, replayed, labels, config_version,
    ) = row  # fmt: skip
    return {
        "tenant_id": tenant_id, "request_id": request_id, "idempotency_key": idempotency_key or None,
        "priority": priority or None, "status": status, "error": _error(code),
        "usage": {
            "input_tokens": input_tokens, "cached_input_tokens": cached_input_tokens,
            "output_tokens": output_tokens, "reasoning_tokens": reasoning_tokens,
        },
        "cost": {"nano_usd": nano_usd, "price_id": price_id or None},
        "route": {"pool": pool, "provider": provider, "model": model, "reason": route} if model else None,
        "timings": {
            "received_at": _time(received_ms), "completed_at": _time(completed_ms),
            "queue_ms": queue_ms, "model_ms": model_ms, "added_ms": added_ms,
        },
        "attempts": attempts, "cached": cached, "replayed": replayed, "labels": dict(labels),
        "config_version": config_version,
    }  # fmt: skip


def _decision(row: Any) -> dict[str, Any]:
    (
        decision_id, event_ms, stage, kind, code, message, limit, used, unit, suggestion, attributes, config_version,
    ) = row  # fmt: skip
    return {
        "decision_id": decision_id, "event_time": _time(event_ms), "stage": stage, "kind": kind,
        "reason": {
            "code": code, "message": message, "limit": limit, "used": used, "unit": unit or None,
            "suggestion": suggestion or None,
        },
        "attributes": dict(attributes), "config_version": config_version,
    }  # fmt: skip


def _attempt(row: Any) -> dict[str, Any]:
    (
        attempt_id, number, status, code, provider, model, worker, started_ms, first_token_ms, completed_ms, model_ms,
        http_status, finish_reason, input_tokens, output_tokens,
    ) = row  # fmt: skip
    return {
        "attempt_id": attempt_id, "attempt": number, "status": status, "error": _error(code), "provider": provider,
        "model": model, "worker": worker, "started_at": _time(started_ms),
        "first_token_at": None if first_token_ms is None else _time(first_token_ms),
        "completed_at": _time(completed_ms), "model_ms": model_ms, "http_status": http_status,
        "finish_reason": finish_reason or None,
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
    }  # fmt: skip


def _dead_letter(row: Any) -> dict[str, Any]:
    dead_letter_id, event_ms, stage, code, message, field, hint, redriven_ms = row
    return {
        "dead_letter_id": dead_letter_id, "event_time": _time(event_ms), "stage": stage,
        "error": {"code": code, "message": message, "field": field or None, "hint": hint or None},
        "redriven_at": None if redriven_ms is None else _time(redriven_ms),
    }  # fmt: skip


def _error(code: str) -> dict[str, Any] | None:
    """The tables keep the code of an error; its meaning and hint come from the table of errors."""
    if not code:
        return None
    spec = ERRORS.get(ErrorCode(code)) if code in set(ErrorCode) else None
    return {"code": code, "message": spec.meaning if spec else "", "field": None, "hint": spec.hint if spec else None}


def _time(milliseconds: int) -> str:
    return format_timestamp(timestamp_from_ms(milliseconds))


async def _scan(reader: LogReader, prefix: str, spec: TopicSpec, evidence: Evidence, since_ms: int) -> None:
    topic = spec.full_name(prefix)
    starts = await reader.offsets_at(topic, since_ms)
    ends = await reader.ends(topic)
    key = request_key(evidence.tenant_id, evidence.request_id)
    if spec not in (REQUESTS, DEAD_LETTERS):
        partition = partition_for(key, len(ends))
        starts, ends = {partition: starts[partition]}, {partition: ends[partition]}
    needle = evidence.request_id.encode()
    async for batch in reader.read(topic, starts, ends):
        for record in batch:
            if record.key == key or (spec in (REQUESTS, DEAD_LETTERS) and needle in (record.value or b"")):
                _add(evidence, spec, record)


def _add(evidence: Evidence, spec: TopicSpec, record: Record) -> None:
    value = fields_of(record)
    if (value.get("tenant_id"), value.get("request_id")) != (evidence.tenant_id, evidence.request_id):
        return
    evidence.sources.add("log")
    if spec is RESULTS:
        # The first one wins. It replaces a row of ClickHouse, which has no message of an error.
        if evidence.result is None or "schema" not in evidence.result:
            evidence.result = value
    elif spec is DECISIONS:
        evidence.decisions.append(value)
    elif spec is ATTEMPTS:
        evidence.attempts.append(value)
    elif spec is DEAD_LETTERS:
        evidence.dead_letters.append(value)
    elif evidence.request is None:
        evidence.request = {**value, "received_at": format_timestamp(timestamp_from_ms(record.timestamp_ms))}
