"""From a record on ``requests`` to a request that can be admitted, or the reason why not. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairlane.agents.config_view import ConfigView
from fairlane.policy.pricing import PriceRow, cost, price_at
from fairlane.policy.routing import Candidate, Choice, NoRoute, choose
from fairlane.policy.tokens import PromptTokens, count_prompt
from fairlane.ports import Record
from fairlane.ports.log import Fault
from fairlane.schemas.base import timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.codec import DecodeError
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.headers import TRACEPARENT, header, trace_id
from fairlane.schemas.job import Job, JobRoute, Ticket
from fairlane.schemas.request import Request
from fairlane.schemas.request_codec import decode_request, fingerprint, readable_parts
from fairlane.schemas.result import Status
from fairlane.schemas.shown_names import shown_name
from fairlane.schemas.tenant import Tenant, TenantStatus

_UNREADABLE = {
    Fault.TOO_LARGE: error(
        ErrorCode.TOO_LARGE,
        "the compressed batch of this record holds more than is unpacked",
        hint="Let the producer make smaller batches (its batch.size).",
    ),
    Fault.DAMAGED: error(
        ErrorCode.INVALID_JSON,
        "the compressed batch of this record cannot be unpacked",
        hint="Send the request again; if that happens often, look for a fault of the broker's disk.",
    ),
}


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What an installation accepts; a deadline is at most ``longest_timeout_ms`` after receipt."""

    max_request_bytes: int
    default_timeout_ms: int
    longest_timeout_ms: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request ready for admission: the job for the worker, the ticket for the dispatcher."""

    job: Job
    ticket: Ticket
    fingerprint: str
    max_undispatched: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a record goes no further. Without ``ids`` it becomes a dead letter, else a result.

    ``readable`` are the ids as far as they can be read, for the dead letter.
    """

    detail: ErrorDetail
    fingerprint: str
    ids: tuple[str, str] | None = None
    tenant_known: bool = False
    status: Status = Status.REJECTED
    idempotency_key: str | None = None
    priority: str | None = None
    labels: Mapping[str, str] | None = None
    readable: tuple[str | None, str | None] = (None, None)


def examine(record: Record, view: ConfigView, limits: IntakeLimits, now_ms: int) -> Accepted | Refused:
    """Decode, check tenant, model and deadline, choose a route and price it at its maximum."""
    value = record.value or b""
    try:
        if record.fault is not None:
            raise DecodeError(_UNREADABLE[record.fault])
        request, document = decode_request(record.value, limits.max_request_bytes)
    except DecodeError as failure:
        parts = readable_parts(value) if len(value) <= 4 * limits.max_request_bytes else (None, None)
        ids = (parts[0], parts[1]) if parts[0] is not None and parts[1] is not None else None
        known = ids is not None and ids[0] in view.tenants
        return Refused(failure.detail, hashlib.sha256(value).hexdigest(), ids, known, readable=parts)
    body: dict[str, Any] = document["body"]
    print_ = fingerprint(body)
    tenant = view.tenants.get(request.tenant_id)

    def refuse(detail: ErrorDetail, status: Status = Status.REJECTED) -> Refused:
        return Refused(
            detail,
            print_,
            (request.tenant_id, request.request_id),
            tenant is not None,
            status,
            request.idempotency_key or request.request_id,
            request.priority.value,
            request.labels,
        )

    if tenant is None:
        return refuse(error(ErrorCode.UNKNOWN_TENANT, field="tenant_id"))
    if tenant.status is TenantStatus.SUSPENDED:
        return refuse(error(ErrorCode.TENANT_SUSPENDED, field="tenant_id"))
    deadline_ms = _deadline_ms(request, record.timestamp_ms, limits)
    if deadline_ms <= now_ms:
        field = "deadline" if request.deadline is not None else "timeout_ms"
        late = error(ErrorCode.DEADLINE_EXCEEDED, "the deadline had passed on receipt", field=field)
        return refuse(late, Status.EXPIRED)
    prompt = count_prompt(body)
    choice = _route(request, tenant, view, prompt)
    if isinstance(choice, NoRoute):
        return refuse(error(ErrorCode(choice.code), choice.message, field=choice.field))
    entry = view.models[choice.model]
    unknown = sorted(set(request.body.model_extra or {}) - set(entry.model.extra_params))
    if unknown:
        return refuse(
            error(
                ErrorCode.SCHEMA_VIOLATION,
                f"not a parameter of chat completions, nor in extra_params of {choice.model}",
                field=f"body.{shown_name(unknown[0])}",
            )
        )
    row = price_at(entry.prices, record.timestamp_ms)
    if row is None:
        message = f"{choice.model} has no price that is in effect yet"
        return refuse(error(ErrorCode.UNKNOWN_MODEL, message, field="body.model"))
    return _accept(record, request, body, tenant, view, prompt, choice, row, deadline_ms, print_, now_ms)


def _deadline_ms(request: Request, received_ms: int, limits: IntakeLimits) -> int:
    latest = received_ms + limits.longest_timeout_ms
    if request.deadline is not None:
        return min(timestamp_to_ms(request.deadline), latest)
    return min(received_ms + (request.timeout_ms or limits.default_timeout_ms), latest)


def _route(request: Request, tenant: Tenant, view: ConfigView, prompt: PromptTokens) -> Choice | NoRoute:
    name = request.body.model
    route = view.routes.get(name)
    if route is None and name not in view.models:
        return NoRoute("unknown_model", "neither a model nor a route of the catalog", "body.model")
    candidates = [
        Candidate(entry.model.model, entry.model.context_tokens, entry.model.max_output_tokens)
        for model in (route or (name,))
        if view.fault(model) is None and (entry := view.models.get(model)) is not None
    ]
    if not candidates and route is None:
        return NoRoute("unknown_model", view.fault(name) or "the model cannot be called", "body.model")
    choice = choose(
        name,
        candidates,
        tenant.models,
        input_tokens=prompt.estimate,
        output_limit=request.body.output_token_limit,
        is_route=route is not None,
    )
    if isinstance(choice, NoRoute) and choice.field == "body.max_tokens":
        # Policy knows one limit; the sender knows it by the name it was given.
        return replace(choice, field=f"body.{request.body.output_limit_name}")
    return choice


def _accept(
    record: Record,
    request: Request,
    body: dict[str, Any],
    tenant: Tenant,
    view: ConfigView,
    prompt: PromptTokens,
    choice: Choice,
    row: PriceRow,
    deadline_ms: int,
    print_: str,
    now_ms: int,
) -> Accepted:
    entry = view.models[choice.model]
    provider = view.providers[entry.model.provider]
    output_limit = choice.output_limit * (request.body.n or 1)
    traceparent = header(record.headers, TRACEPARENT)
    trace = trace_id(traceparent)
    # The dearer of the two input prices, so that the hold bounds the cost whatever is cached.
    dearest = PriceRow(row.price_id, row.effective_ms, max(row.input, row.cached_input), 0, row.output)
    job = Job(
        request_id=request.request_id,
        tenant_id=request.tenant_id,
        idempotency_key=request.idempotency_key or request.request_id,
        priority=request.priority.value,
        deadline=timestamp_from_ms(deadline_ms),
        labels=request.labels,
        stream=request.stream or bool(request.body.stream),
        body=body,
        route=JobRoute(
            pool=entry.model.pool,
            provider=provider.provider,
            kind=provider.kind,
            base_url=provider.base_url,
            key=provider.key,
            timeout_ms=provider.timeout_ms,
            model=choice.model,
            provider_model=entry.model.provider_model or choice.model,
            reason=choice.reason,
            price_id=row.price_id,
            input_price=row.input,
            cached_input_price=row.cached_input,
            output_price=row.output,
        ),
        hold_nano_usd=cost(dearest, prompt.upper, 0, output_limit),
        received_at=timestamp_from_ms(record.timestamp_ms),
        admitted_at=timestamp_from_ms(now_ms),
        config_version=view.version,
        traceparent=traceparent.decode() if traceparent is not None and trace is not None else None,
    )
    ticket = Ticket(
        tenant_id=request.tenant_id,
        request_id=request.request_id,
        priority=request.priority.value,
        model=choice.model,
        input_tokens=prompt.estimate,
        output_limit=output_limit,
        received_ms=record.timestamp_ms,
        admitted_ms=now_ms,
        deadline_ms=deadline_ms,
        trace_id=trace,
    )
    return Accepted(job, ticket, print_, tenant.max_undispatched, choice.reason)
