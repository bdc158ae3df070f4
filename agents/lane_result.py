"""The result of a request that ended in its lane, without a worker. Pure."""

from __future__ import annotations

from fairlane.schemas.base import timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.errors import ErrorDetail
from fairlane.schemas.job import Job, Ticket
from fairlane.schemas.result import Result, Route, Status, Timings


def lane_result(job: Job, ticket: Ticket, pool: str, status: Status, detail: ErrorDetail, now_ms: int) -> Result:
    """It waited until ``now_ms`` (milliseconds since the epoch), and nothing of it is billed."""
    return Result(
        request_id=job.request_id,
        tenant_id=job.tenant_id,
        idempotency_key=job.idempotency_key,
        priority=job.priority,
        status=status,
        error=detail,
        route=Route(pool=pool, provider=job.route.provider, model=job.route.model, reason=job.route.reason),
        timings=Timings(
            received_at=job.received_at,
            admitted_at=job.admitted_at,
            completed_at=timestamp_from_ms(max(now_ms, timestamp_to_ms(job.received_at))),
            queue_ms=float(max(0, now_ms - ticket.admitted_ms)),
            added_ms=float(max(0, ticket.admitted_ms - ticket.received_ms)),
        ),
        labels=job.labels,
        config_version=job.config_version,
    )
