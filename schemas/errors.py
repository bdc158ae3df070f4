"""The one table of error codes: what each means, whether a retry can help, what to do next.

Codes are public and stable (``docs/contracts/errors.md`` is generated from this table). To add
one, add a row here; everything else (JSON Schema, AsyncAPI, docs) follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from fairlane.schemas.base import WireModel


class ErrorCode(StrEnum):
    """Every code that can stand in ``error.code`` of a result or a dead letter."""

    INVALID_JSON = "invalid_json"
    SCHEMA_VIOLATION = "schema_violation"
    UNSUPPORTED_VERSION = "unsupported_version"
    TOO_LARGE = "too_large"
    UNKNOWN_TENANT = "unknown_tenant"
    TENANT_SUSPENDED = "tenant_suspended"
    UNKNOWN_MODEL = "unknown_model"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    CONTEXT_TOO_LONG = "context_too_long"
    RATE_LIMITED = "rate_limited"
    TOKEN_RATE_LIMITED = "token_rate_limited"
    CONCURRENCY_LIMITED = "concurrency_limited"
    QUEUE_FULL = "queue_full"
    BUDGET_EXHAUSTED = "budget_exhausted"
    OVERLOADED = "overloaded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    REQUEST_ID_REUSED = "request_id_reused"
    CANCELLED = "cancelled"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    PROVIDER_RATE_LIMITED = "provider_rate_limited"
    PROVIDER_REFUSED = "provider_refused"
    INVALID_RESPONSE = "invalid_response"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One row of the table."""

    meaning: str
    hint: str
    retryable: bool


ERRORS: dict[ErrorCode, ErrorSpec] = {
    ErrorCode.INVALID_JSON: ErrorSpec(
        "The value is not one UTF-8 JSON object.",
        "Send one JSON object, UTF-8 without a byte-order mark, no duplicate keys, nesting below 200.",
        retryable=False,
    ),
    ErrorCode.SCHEMA_VIOLATION: ErrorSpec(
        "A field is missing, unknown, of the wrong type or out of range.",
        "Compare the named field with docs/contracts/request.schema.json.",
        retryable=False,
    ),
    ErrorCode.UNSUPPORTED_VERSION: ErrorSpec(
        "The schema field names a version this installation does not read.",
        "Send schema fairlane.request.v1.",
        retryable=False,
    ),
    ErrorCode.TOO_LARGE: ErrorSpec(
        "The record is larger than the installation accepts.",
        "Send a smaller body, or raise FAIRLANE_MAX_REQUEST_BYTES.",
        retryable=False,
    ),
    ErrorCode.UNKNOWN_TENANT: ErrorSpec(
        "No tenant of this name has been applied.",
        "Check tenant_id, or apply the tenant with `fairlane tenants apply -f`.",
        retryable=False,
    ),
    ErrorCode.TENANT_SUSPENDED: ErrorSpec(
        "The tenant is suspended.", "Ask the operator to set the tenant's status to active.", retryable=False
    ),
    ErrorCode.UNKNOWN_MODEL: ErrorSpec(
        "body.model is neither a model nor a route of the catalog.",
        "List what exists with `fairlane catalog list`.",
        retryable=False,
    ),
    ErrorCode.MODEL_NOT_ALLOWED: ErrorSpec(
        "The tenant may not use this model.", "Use an allowed model, or extend the tenant's models.", retryable=False
    ),
    ErrorCode.CONTEXT_TOO_LONG: ErrorSpec(
        "Prompt and max_tokens together exceed the model's context.",
        "Shorten the messages, lower max_tokens, or use a model with a larger context.",
        retryable=False,
    ),
    ErrorCode.RATE_LIMITED: ErrorSpec(
        "The tenant's request rate limit is reached.", "Send again after retry_after_ms.", retryable=True
    ),
    ErrorCode.TOKEN_RATE_LIMITED: ErrorSpec(
        "The tenant's token rate limit is reached.", "Send again after retry_after_ms.", retryable=True
    ),
    ErrorCode.CONCURRENCY_LIMITED: ErrorSpec(
        "The tenant has its full number of requests in flight.", "Wait for results, then send again.", retryable=True
    ),
    ErrorCode.QUEUE_FULL: ErrorSpec(
        "The tenant has its full number of undispatched requests (max_undispatched).",
        "Wait for results before sending more, or raise the tenant's max_undispatched.",
        retryable=True,
    ),
    ErrorCode.BUDGET_EXHAUSTED: ErrorSpec(
        "The request's maximum price does not fit what is left of the budget.",
        "Lower max_tokens, wait for the next period, or raise the budget.",
        retryable=False,
    ),
    ErrorCode.OVERLOADED: ErrorSpec("The installation sheds load.", "Send again after retry_after_ms.", retryable=True),
    ErrorCode.DEADLINE_EXCEEDED: ErrorSpec(
        "The deadline passed before a result could be had.",
        "Send a later deadline, or a higher priority.",
        retryable=True,
    ),
    ErrorCode.IDEMPOTENCY_MISMATCH: ErrorSpec(
        "The idempotency key was used before with another body.", "Use a new idempotency_key.", retryable=False
    ),
    ErrorCode.REQUEST_ID_REUSED: ErrorSpec(
        "The request_id was used before with another body.", "Use a new request_id.", retryable=False
    ),
    ErrorCode.CANCELLED: ErrorSpec("The request was cancelled by a command.", "Nothing to do.", retryable=False),
    ErrorCode.PROVIDER_TIMEOUT: ErrorSpec(
        "The provider did not answer in time.", "Send again, with a later deadline if one was set.", retryable=True
    ),
    ErrorCode.PROVIDER_UNAVAILABLE: ErrorSpec(
        "The provider could not be reached or failed.", "Send again later; see the attempts table.", retryable=True
    ),
    ErrorCode.PROVIDER_RATE_LIMITED: ErrorSpec(
        "The provider refused the call for its own rate limit.", "Send again after retry_after_ms.", retryable=True
    ),
    ErrorCode.PROVIDER_REFUSED: ErrorSpec(
        "The provider refused the request itself.",
        "Compare the request with the provider's documentation; check the provider's key.",
        retryable=False,
    ),
    ErrorCode.INVALID_RESPONSE: ErrorSpec(
        "The provider's answer is not a chat completion.", "Send again; report it to the provider.", retryable=True
    ),
    ErrorCode.INTERNAL: ErrorSpec(
        "An error inside Fairlane.", "Report it with the request_id; the logs hold the cause.", retryable=True
    ),
}


class ErrorDetail(WireModel):
    """What went wrong, where, and what to do next, as it stands in a result or a dead letter."""

    code: ErrorCode = Field(strict=False)
    message: str
    field: str | None = None
    hint: str | None = None
    retryable: bool
    retry_after_ms: Annotated[int, Field(ge=0)] | None = None


def error(
    code: ErrorCode,
    message: str | None = None,
    *,
    field: str | None = None,
    hint: str | None = None,
    retry_after_ms: int | None = None,
) -> ErrorDetail:
    """An :class:`ErrorDetail` whose gaps are filled from the table."""
    spec = ERRORS[code]
    return ErrorDetail(
        code=code,
        message=message or spec.meaning,
        field=field,
        hint=hint or spec.hint,
        retryable=spec.retryable,
        retry_after_ms=retry_after_ms,
    )
