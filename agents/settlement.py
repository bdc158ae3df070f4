"""What a terminal result means to the admission store. Pure."""

from __future__ import annotations

from fairlane.agents.topic_names import TopicNames
from fairlane.ports import AdmissionOutcome, Known, Record, Settlement
from fairlane.schemas.errors import ErrorCode
from fairlane.schemas.headers import SOURCE, header, identity_of
from fairlane.schemas.result import Result, Status


def settlement_of(record: Record, result: Result, names: TopicNames, ttl_s: int) -> Settlement:
    """How to book the result; ``ttl_s`` is how long its request is remembered from now on, in seconds."""
    final = result.status is Status.SUCCEEDED or (result.error is not None and not result.error.retryable)
    identity = identity_of(record.headers)
    return Settlement(
        tenant_id=result.tenant_id,
        request_id=result.request_id,
        idempotency_key=result.idempotency_key or result.request_id,
        cost_nano_usd=result.cost.nano_usd,
        answer=f"{record.partition}/{record.offset}",
        replayable=final and result.status is not Status.CANCELLED,
        ttl_s=ttl_s,
        known_as=None if identity is None else Known(*identity, *_decided(record, result, names)),
    )


def _decided(record: Record, result: Result, names: TopicNames) -> tuple[AdmissionOutcome, bool]:
    """What the gate had decided, by who wrote the result; and whether that was to admit the request."""
    topic = (header(record.headers, SOURCE) or b"").decode(errors="replace").rsplit("/", 2)[0]
    code = result.error.code if result.error is not None else None
    if topic == names.results:
        return AdmissionOutcome.JOINED, False
    if topic != names.requests:
        return AdmissionOutcome.ADMITTED, True
    if result.replayed:
        return AdmissionOutcome.REPLAY, False
    refusals = {
        ErrorCode.QUEUE_FULL: AdmissionOutcome.QUEUE_FULL,
        ErrorCode.IDEMPOTENCY_MISMATCH: AdmissionOutcome.IDEMPOTENCY_MISMATCH,
    }
    return refusals.get(code, AdmissionOutcome.REJECTED) if code is not None else AdmissionOutcome.REJECTED, False
