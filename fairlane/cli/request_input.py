"""From what a person types or pipes in to request events. Pure: no clock, no log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlane.errors import Reject
from fairlane.schemas.request import REQUEST_SCHEMA


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the options say about every request; a request's own fields go before these."""

    tenant_id: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    priority: str | None = None
    timeout_ms: int | None = None
    idempotency_key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """An event ready to send, and who it is about."""

    tenant_id: str
    request_id: str
    event: dict[str, Any]

    @property
    def value(self) -> bytes:
        """The record's value."""
        return json.dumps(self.event, ensure_ascii=False, separators=(",", ":")).encode()


def from_prompt(prompt: str, envelope: Envelope, new_id: Callable[[], str]) -> Prepared:
    """One request with the prompt as the user's message. Raises Reject without a tenant."""
    return from_object({"messages": [{"role": "user", "content": prompt}]}, envelope, new_id, "the prompt")


def from_line(line: str, number: int, envelope: Envelope, new_id: Callable[[], str]) -> Prepared | None:
    """The request on one line of JSON; None for an empty line.

    A line with ``schema`` or ``body`` is a request event, one with ``messages`` is a body. Raises
    Reject naming the line if it is neither.
    """
    if not line.strip():
        return None
    where = f"line {number}"
    try:
        item = json.loads(line)
    except ValueError as failure:
        raise Reject(f"{where}: not valid JSON: {failure}") from None
    if not isinstance(item, dict):
        raise Reject(f"{where}: expected a JSON object, a request event or a chat-completions body")
    return from_object(item, envelope, new_id, where)


def from_object(item: dict[str, Any], envelope: Envelope, new_id: Callable[[], str], where: str) -> Prepared:
    """An event from an event or a body, its gaps filled from the options.

    Only what is needed to find the answer is checked here; the gate judges the rest and says why.
    """
    if "body" in item or "schema" in item:
        event = dict(item)
        body = event.get("body")
    elif "messages" in item:
        event, body = {}, item
    else:
        raise Reject(f"{where}: neither a request event (schema, body) nor a chat-completions body (messages)")
    if isinstance(body, dict):
        body = dict(body)
        body.setdefault("model", envelope.model or "auto")
        if envelope.max_tokens is not None and "max_completion_tokens" not in body:
            body.setdefault("max_tokens", envelope.max_tokens)
        event["body"] = body
    filled: dict[str, Any] = {"schema": REQUEST_SCHEMA, "request_id": None, "tenant_id": None}
    filled.update(event)
    if filled["request_id"] is None:
        filled["request_id"] = new_id()
    if filled["tenant_id"] is None:
        filled["tenant_id"] = envelope.tenant_id
    _fill_options(filled, envelope)
    tenant_id, request_id = filled["tenant_id"], filled["request_id"]
    if not isinstance(tenant_id, str) or not tenant_id:
        raise Reject(f"{where}: no tenant_id; give one in the event or with --tenant")
    if not isinstance(request_id, str) or not request_id:
        raise Reject(f"{where}: request_id must be a string of 1 to 128 visible ASCII characters")
    prepared = Prepared(tenant_id, request_id, filled)
    try:
        _ = prepared.value
    except UnicodeEncodeError:
        raise Reject(f"{where}: not text that UTF-8 can hold; check its encoding and escapes") from None
    return prepared


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    """``k=v`` pairs as labels. Raises Reject for a pair without ``=``."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Reject(f"--label {pair}: expected key=value")
        labels[key] = value
    return labels


def _fill_options(event: dict[str, Any], envelope: Envelope) -> None:
    if envelope.priority is not None:
        event.setdefault("priority", envelope.priority)
    if envelope.timeout_ms is not None and "deadline" not in event:
        event.setdefault("timeout_ms", envelope.timeout_ms)
    if envelope.idempotency_key is not None:
        event.setdefault("idempotency_key", envelope.idempotency_key)
    if envelope.labels:
        own = event.get("labels")
        event["labels"] = {**envelope.labels, **(own if isinstance(own, dict) else {})}
    if envelope.stream:
        event.setdefault("stream", True)
