"""``fairlane.result.v1``: the one terminal answer to a request, on the ``results`` topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from fairlane.schemas.base import Identifier, Labels, Milliseconds, NanoUsd, Timestamp, TokenCount, WireModel
from fairlane.schemas.errors import ErrorDetail

RESULT_SCHEMA = "fairlane.result.v1"


class Status(StrEnum):
    """How a request ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Usage(WireModel):
    """Tokens billed. ``input_tokens`` includes cached ones, ``output_tokens`` includes reasoning."""

    input_tokens: TokenCount = 0
    cached_input_tokens: TokenCount = 0
    output_tokens: TokenCount = 0
    reasoning_tokens: TokenCount = 0


class Cost(WireModel):
    """What the request costs the tenant, and the price row it was computed from."""

    nano_usd: NanoUsd = 0
    price_id: str | None = None


class Route(WireModel):
    """Where the request went and why."""

    pool: str
    provider: str
    model: str
    reason: str


class Timings(WireModel):
    """``queue_ms`` waiting in the lane, ``model_ms`` inside provider calls, ``added_ms`` the rest."""

    received_at: Timestamp
    admitted_at: Timestamp | None = None
    dispatched_at: Timestamp | None = None
    first_token_at: Timestamp | None = None
    completed_at: Timestamp
    queue_ms: Milliseconds = 0.0
    model_ms: Milliseconds = 0.0
    added_ms: Milliseconds = 0.0


class Result(WireModel):
    """The terminal record of a request; the lowest offset of a key on ``results`` wins."""

    schema_: Literal["fairlane.result.v1"] = Field(default="fairlane.result.v1", alias="schema")
    request_id: Identifier
    tenant_id: Identifier
    idempotency_key: str | None = None
    priority: str | None = None
    status: Annotated[Status, Field(strict=False)]
    response: dict[str, Any] | None = None
    error: ErrorDetail | None = None
    usage: Usage = Usage()
    cost: Cost = Cost()
    route: Route | None = None
    timings: Timings
    attempts: Annotated[int, Field(ge=0)] = 0
    cached: bool = False
    replayed: bool = False
    labels: Labels = Field(default_factory=dict)
    config_version: str
