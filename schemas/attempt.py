"""``fairlane.attempt.v1``: one call to a provider, finished or abandoned."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from fairlane.schemas.base import Identifier, Milliseconds, Timestamp, WireModel
from fairlane.schemas.errors import ErrorDetail
from fairlane.schemas.result import Cost, Usage

ATTEMPT_SCHEMA = "fairlane.attempt.v1"


class AttemptStatus(StrEnum):
    """``abandoned``: a worker died or lost its slot group; the call may or may not have been made."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABANDONED = "abandoned"


class Attempt(WireModel):
    """One provider call. ``attempt_id`` is ``<tenant>/<request>/<number>``.

    ``usage_estimated``: the provider reported no usage, so the tokens were counted from the bytes.
    """

    schema_: Literal["fairlane.attempt.v1"] = Field(default="fairlane.attempt.v1", alias="schema")
    attempt_id: str
    request_id: Identifier
    tenant_id: Identifier
    attempt: Annotated[int, Field(ge=1)]
    status: Annotated[AttemptStatus, Field(strict=False)]
    pool: str
    provider: str
    model: str
    worker: str
    started_at: Timestamp
    first_token_at: Timestamp | None = None
    completed_at: Timestamp
    model_ms: Milliseconds = 0.0
    http_status: int | None = None
    provider_request_id: str | None = None
    finish_reason: str | None = None
    error: ErrorDetail | None = None
    usage: Usage = Usage()
    usage_estimated: bool = False
    cost: Cost = Cost()
    config_version: str
    trace_id: str | None = None
