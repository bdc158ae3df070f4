"""Records of the public topics as the stages write them, for tests of the sinks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fairlane.ports import Record
from fairlane.schemas.attempt import Attempt, AttemptStatus
from fairlane.schemas.base import WireModel
from fairlane.schemas.codec import encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.headers import Headers
from fairlane.schemas.result import Cost, Result, Route, Status, Timings, Usage
from fairlane.schemas.topics import request_key

COMPLETED = datetime(2026, 11, 20, 18, 0, 30, 123_000, tzinfo=UTC)


def result(
    request_id: str = "r-1",
    *,
    tenant: str = "acme",
    completed: datetime = COMPLETED,
    replayed: bool = False,
    nano_usd: int = 8550,
    attempts: int = 1,
) -> Result:
    return Result(
        request_id=request_id,
        tenant_id=tenant,
        idempotency_key=f"key-{request_id}",
        priority="normal",
        status=Status.SUCCEEDED,
        response={"object": "chat.completion"},
        usage=Usage(input_tokens=9, cached_input_tokens=2, output_tokens=12, reasoning_tokens=3),
        cost=Cost(nano_usd=nano_usd, price_id="sim-small@2026-11-01"),
        route=Route(pool="sim", provider="sim", model="sim-small", reason="first of route auto"),
        timings=Timings(
            received_at=completed - timedelta(seconds=1),
            admitted_at=completed - timedelta(milliseconds=900),
            completed_at=completed,
            queue_ms=3.25,
            model_ms=180.5,
            added_ms=6.5,
        ),
        attempts=attempts,
        replayed=replayed,
        labels={"project": "suche für ä"},
        config_version="t5-c9",
    )


def rejected(request_id: str = "r-2", *, tenant: str = "acme") -> Result:
    return Result(
        request_id=request_id,
        tenant_id=tenant,
        status=Status.REJECTED,
        error=error(ErrorCode.QUEUE_FULL),
        timings=Timings(received_at=COMPLETED, completed_at=COMPLETED),
        config_version="t5-c9",
    )


def attempt(number: int = 1, *, http_status: int | None = 200) -> Attempt:
    return Attempt(
        attempt_id=f"acme/r-1/{number}",
        request_id="r-1",
        tenant_id="acme",
        attempt=number,
        status=AttemptStatus.FAILED,
        pool="sim",
        provider="sim",
        model="sim-small",
        worker="worker-0",
        started_at=COMPLETED - timedelta(milliseconds=200),
        completed_at=COMPLETED,
        model_ms=200.0,
        http_status=http_status,
        error=error(ErrorCode.PROVIDER_TIMEOUT),
        config_version="t5-c9",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    )


def decision(decision_id: str = "gate/requests/0/7", *, limit: int | None = 100) -> Decision:
    return Decision(
        decision_id=decision_id,
        event_time=COMPLETED,
        stage="gate",
        kind=DecisionKind.REJECTED,
        tenant_id="acme",
        request_id="r-1",
        reason=Reason(code="queue_full", message="100 of 100 wait", limit=limit, used=100, unit="requests"),
        attributes={"pool": "sim"},
        config_version="t5-c9",
    )


def dead_letter(offset: int = 7) -> DeadLetter:
    return DeadLetter(
        dead_letter_id=f"fairlane.requests/3/{offset}",
        event_time=COMPLETED,
        stage="gate",
        source_topic="fairlane.requests",
        source_partition=3,
        source_offset=offset,
        error=error(ErrorCode.INVALID_JSON),
        payload_bytes=17,
        payload_sha256="0" * 64,
        config_version="t5-c9",
    )


def record(
    model: WireModel | None,
    *,
    topic: str = "fairlane.results",
    partition: int = 0,
    offset: int = 0,
    key: bytes | None = None,
    headers: Headers = (),
    value: bytes | None = None,
) -> Record:
    """``model`` as a record; a result gets its own key unless another is given."""
    if key is None and isinstance(model, Result):
        key = request_key(model.tenant_id, model.request_id)
    payload = encode(model) if model is not None else value
    return Record(topic, partition, offset, 1_700_000_000_000, key, payload, headers)
