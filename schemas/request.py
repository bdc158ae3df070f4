"""``fairlane.request.v1``: what a tenant produces to the ``requests`` topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fairlane.schemas.base import IdempotencyKey, Identifier, Labels, Timestamp, WireModel
from fairlane.schemas.chat import ChatBody

REQUEST_SCHEMA = "fairlane.request.v1"
TIMEOUT_MS_MAX = 86_400_000


class Priority(StrEnum):
    """Strict bands: a waiting record of an earlier band always goes first."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BATCH = "batch"


class Request(WireModel):
    """One LLM request. ``deadline`` is absolute, ``timeout_ms`` counts from the record's timestamp."""

    schema_: Literal["fairlane.request.v1"] = Field(alias="schema")
    request_id: Identifier
    tenant_id: Identifier
    idempotency_key: IdempotencyKey | None = None
    priority: Annotated[Priority, Field(strict=False)] = Priority.NORMAL
    deadline: Timestamp | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=TIMEOUT_MS_MAX)] | None = None
    labels: Labels = Field(default_factory=dict)
    stream: bool = False
    body: ChatBody

    @model_validator(mode="after")
    def _one_deadline(self) -> Request:
        if self.deadline is not None and self.timeout_ms is not None:
            raise PydanticCustomError("one_deadline", "give deadline or timeout_ms, not both", {"at": "timeout_ms"})
        return self
