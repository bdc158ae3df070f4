"""Internal contracts of the ``lanes`` and ``inbox`` topics: a job and the ticket on its outside.

The value of both topics is a :class:`Job`; it is written once by the gate and passed on unread by
the dispatcher, which schedules by the :class:`Ticket` in the ``fairlane-ticket`` header alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fairlane.schemas.base import Identifier, Labels, NanoUsd, Timestamp, TokenCount, WireModel

JOB_SCHEMA = "fairlane.job.v1"


EpochMs = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""Milliseconds since the epoch: whatever the timestamp of a Kafka record can be."""


class Ticket(WireModel):
    """What the dispatcher needs to know of a job; times are milliseconds since the epoch."""

    tenant_id: Identifier
    request_id: Identifier
    priority: Literal["critical", "high", "normal", "low", "batch"]
    model: str
    input_tokens: TokenCount
    output_limit: TokenCount
    received_ms: EpochMs
    admitted_ms: EpochMs
    deadline_ms: EpochMs | None = None
    trace_id: str | None = None

    def names(self, job: Job) -> bool:
        """Whether it is the ticket of that request."""
        return (self.tenant_id, self.request_id) == (job.tenant_id, job.request_id)


class Dispatch(WireModel):
    """The ``fairlane-dispatch`` header of an inbox record."""

    epoch: Annotated[int, Field(ge=0)]
    dispatched_ms: EpochMs


class JobRoute(WireModel):
    """The chosen model and how to call it, with the price fixed at admission.

    Prices are nano-dollars per million tokens.
    """

    pool: str
    provider: str
    kind: str
    base_url: str
    key: str | None = None
    timeout_ms: int
    model: str
    provider_model: str
    reason: str
    price_id: str
    input_price: NanoUsd
    cached_input_price: NanoUsd
    output_price: NanoUsd


class Job(WireModel):
    """An admitted request, complete for the worker. ``body`` is as the tenant sent it."""

    schema_: Literal["fairlane.job.v1"] = Field(default="fairlane.job.v1", alias="schema")
    request_id: Identifier
    tenant_id: Identifier
    idempotency_key: str
    priority: str
    deadline: Timestamp | None = None
    labels: Labels = Field(default_factory=dict)
    stream: bool = False
    body: dict[str, Any]
    route: JobRoute
    hold_nano_usd: NanoUsd
    received_at: Timestamp
    admitted_at: Timestamp
    config_version: str
    traceparent: str | None = None
