"""``fairlane.decision.v1``: why a stage did what it did with a request."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from fairlane.schemas.base import Timestamp, WireModel

DECISION_SCHEMA = "fairlane.decision.v1"


class DecisionKind(StrEnum):
    """What was decided."""

    ADMITTED = "admitted"
    REJECTED = "rejected"
    REPLAYED = "replayed"
    JOINED = "joined"
    DUPLICATE = "duplicate"
    DEAD_LETTERED = "dead_lettered"
    DISPATCHED = "dispatched"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REDELIVERED = "redelivered"


class Reason(WireModel):
    """The rule behind a decision: which limit, how much of it was used, what would change it."""

    code: str
    message: str
    limit: int | None = None
    used: int | None = None
    unit: str | None = None
    suggestion: str | None = None


class Decision(WireModel):
    """One decision of one stage about one request. ``decision_id`` is the same on redelivery."""

    schema_: Literal["fairlane.decision.v1"] = Field(default="fairlane.decision.v1", alias="schema")
    decision_id: str
    event_time: Timestamp
    stage: str
    kind: Annotated[DecisionKind, Field(strict=False)]
    tenant_id: str | None = None
    request_id: str | None = None
    reason: Reason
    attributes: dict[str, str] = Field(default_factory=dict)
    config_version: str
    trace_id: str | None = None
