"""What each input must get, decided from its bytes by rules that were written apart from the product."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.bad_input.contract_rules import PARAMETERS, broken, broken_command, instant, visible
from tests.bad_input.name_rules import shown
from tests.bad_input.strict_json import Document, NotJson, read

MAX_BYTES = 1_048_576
READABLE_MAX = 4 * MAX_BYTES
DEPTH_MAX = 200
"""Nesting the contract allows less than."""
PLAIN_DEPTH = (850, 1000)
"""Below the first a plain parser surely finds the ids of a document that is nested too deeply, above the
second it surely does not: in between it depends on how deep the program itself is."""
NEAR = timedelta(hours=1)

TENANTS = {"acme": None, "picky": frozenset({"sim-instant"}), "asleep": frozenset[str]()}
"""Active tenants with the models they may use (None: all); ``asleep`` is suspended."""
MODELS = {"sim-instant": (32_768, 4096), "sim-small": (32_768, 4096), "sim-large": (131_072, 16_384)}
"""Context and largest output, in tokens."""
ROUTES = {"auto": ("sim-small", "sim-large"), "fast": ("sim-small",), "best": ("sim-large", "sim-small")}

DEAD, REJECTED, EXPIRED, ACCEPTED, QUIET = "dead letter", "rejected", "expired", "accepted", "passed over"
_ANOTHER_VERSION = re.compile(r"fairlane\.request\.v[0-9]{1,9}")
Ids = tuple[str, str]


@dataclass(frozen=True)
class Way:
    """One way an input may go: the outcome, and for a refusal its code and field."""

    outcome: str
    code: str | None = None
    field: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.outcome, self.code, self.field and f"({self.field})")))


@dataclass(frozen=True)
class Verdict:
    """All ways that are right for an input, and whose result it is (None: nobody's)."""

    ways: frozenset[Way]
    ids: Ids | None = None
    repeats: bool = False
    """The record says what one before it said: the result of that one is its own, too."""

    @property
    def accepted(self) -> bool:
        return Way(ACCEPTED) in self.ways


@dataclass
class Oracle:
    """Remembers the requests it has seen: a second one with the same id or key is judged by the first."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    _requests: dict[Ids, tuple[str, Verdict]] = field(default_factory=dict)
    _keys: dict[Ids, str] = field(default_factory=dict)

    def judge(self, value: bytes | None) -> Verdict:
        """What a record with this value on ``requests`` must get."""
        verdict, body, key = self._examine(value)
        ids = verdict.ids
        if ids is None or ids[0] not in TENANTS:
            return verdict
        print_ = body if body is not None else f"raw {value!r}"
        if (before := self._requests.get(ids)) is not None:
            if before[0] == print_:
                return replace(before[1], repeats=True)
            return Verdict(frozenset({Way(DEAD, "request_id_reused", "request_id")}), ids)
        if verdict.accepted:
            name = (ids[0], key or ids[1])
            if self._keys.setdefault(name, print_) != print_:
                verdict = _refused({Way(REJECTED, "idempotency_mismatch", "idempotency_key")}, ids)
        self._requests[ids] = print_, verdict
        return verdict

    def judge_command(self, value: bytes | None) -> Verdict:
        """What a record with this value on ``commands`` must get; the ids are those of whom it cancels."""
        found, text_ok = _document(value or b"")
        if found is None or not text_ok or found.breaches or not isinstance(found.value, dict):
            return _dead("invalid_json")
        if found.depth > DEPTH_MAX + 1:
            return _dead("invalid_json")
        deep = {Way(DEAD, "invalid_json")} if found.depth >= DEPTH_MAX else set()
        if paths := broken_command(found.value):
            return Verdict(frozenset(Way(DEAD, "schema_violation", path) for path in paths) | deep)
        return Verdict(frozenset({Way(QUIET)}), _ids(found))

    def _examine(self, value: bytes | None) -> tuple[Verdict, str | None, str | None]:
        if value is None:
            return _dead("invalid_json"), None, None
        found, text_ok = _document(value)
        ids = _ids(found) if found is not None else None
        if len(value) > MAX_BYTES:
            ids = ids if len(value) <= READABLE_MAX else None
            return _unread("too_large", ids, found), None, None
        if found is None:
            return _dead("invalid_json"), None, None
        if not text_ok or found.breaches or not isinstance(found.value, dict) or found.depth > DEPTH_MAX + 1:
            return _unread("invalid_json", ids, found), None, None
        verdict, key = self._contract(found.value, ids)
        if found.depth >= DEPTH_MAX:
            verdict = Verdict(verdict.ways | _unread("invalid_json", ids, found).ways, ids)
        body = found.value.get("body")
        return verdict, json.dumps(body, sort_keys=True) if not _schema_fault(verdict) else None, key

    def _contract(self, document: dict[str, Any], ids: Ids | None) -> tuple[Verdict, str | None]:
        schema = document.get("schema")
        if isinstance(schema, str) and schema != "fairlane.request.v1" and _ANOTHER_VERSION.fullmatch(schema):
            return _refused({Way(REJECTED, "unsupported_version", "schema")}, ids), None
        if paths := broken(document):
            return _refused((Way(REJECTED, "schema_violation", path) for path in paths), ids), None
        assert ids is not None
        tenant, key = ids[0], document.get("idempotency_key")
        if tenant not in TENANTS:
            return _refused({Way(REJECTED, "unknown_tenant", "tenant_id")}, ids), key
        if tenant == "asleep":
            return _refused({Way(REJECTED, "tenant_suspended", "tenant_id")}, ids), key
        late: set[Way] = set()
        if (deadline := instant(document.get("deadline"))) is not None and deadline < self.now + NEAR:
            late = {Way(EXPIRED, "deadline_exceeded", "deadline")}
            if deadline < self.now - NEAR:
                return _refused(late, ids), key
        if document.get("timeout_ms") is not None and document["timeout_ms"] < 60_000:
            late = {Way(EXPIRED, "deadline_exceeded", "timeout_ms"), Way(EXPIRED, "deadline_exceeded")}
        ways = _routing(tenant, document["body"]) | late
        return _refused(ways, ids), key


def _refused(ways: Iterable[Way], ids: Ids | None) -> Verdict:
    """Refusals of somebody; without ids the same refusals are dead letters."""
    if ids is not None:
        return Verdict(frozenset(ways), ids)
    return Verdict(frozenset(Way(DEAD, way.code, way.field) for way in ways))


def _dead(code: str) -> Verdict:
    return Verdict(frozenset({Way(DEAD, code)}))


def _unread(code: str, ids: Ids | None, found: Document | None) -> Verdict:
    """A value that is no request, with or without ids in it."""
    if ids is None or found is None or found.depth > PLAIN_DEPTH[1]:
        return _dead(code)
    if found.depth < PLAIN_DEPTH[0]:
        return Verdict(frozenset({Way(REJECTED, code)}), ids)
    return Verdict(frozenset({Way(REJECTED, code), Way(DEAD, code)}), ids)


_UNDECODED = frozenset({"schema_violation", "unsupported_version", "invalid_json"})


def _schema_fault(verdict: Verdict) -> bool:
    return not verdict.accepted and any(way.code in _UNDECODED for way in verdict.ways)


def _document(value: bytes) -> tuple[Document | None, bool]:
    """The document, and whether the text around it is as it must be. A mark of the byte order is not."""
    try:
        text = value.decode()
        marked = text.startswith("\ufeff")
        return read(text.removeprefix("\ufeff")), not marked
    except (UnicodeDecodeError, NotJson):
        return None, False


def _ids(found: Document) -> Ids | None:
    document = found.value
    if not isinstance(document, dict) or found.own_key_twice:
        return None
    tenant, request = document.get("tenant_id"), document.get("request_id")
    return (str(tenant), str(request)) if visible(tenant, 128) and visible(request, 128) else None


def _routing(tenant: str, body: dict[str, Any]) -> set[Way]:
    """Every refusal that fits what is asked of models; of several any may be named."""
    ways = {
        Way(REJECTED, "schema_violation", f"body.{shown(name)}")
        for name in body
        if name not in PARAMETERS and name != "messages"
    }
    named = body["model"]
    models = ROUTES.get(named, (named,))
    if not all(model in MODELS for model in models):
        return ways | {Way(REJECTED, "unknown_model", "body.model")}
    allowed = TENANTS[tenant]
    models = tuple(model for model in models if allowed is None or model in allowed)
    if not models:
        return ways | {Way(REJECTED, "model_not_allowed", "body.model")}
    context, largest = (max(MODELS[model][at] for model in models) for at in (0, 1))
    limit_name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    limit = body.get(limit_name)
    if limit is not None and limit > min(MODELS[model][1] for model in models):
        ways |= {Way(REJECTED, "schema_violation", f"body.{limit_name}")} if limit > largest else set()
    # The rule of thumb is four bytes a token; the oracle is sure only where any rule would agree.
    wanted, size = limit or 1, len(json.dumps(body, ensure_ascii=False).encode())
    text = sum(_text_bytes(message.get("content")) for message in body["messages"])
    if size // 3 + 10 * len(body["messages"]) + wanted <= min(MODELS[model][0] for model in models):
        return ways or {Way(ACCEPTED)}
    too_long = {Way(REJECTED, "context_too_long", "body.messages")}
    if text // 5 + wanted > context:
        return ways | too_long
    return ways | too_long if ways else too_long | {Way(ACCEPTED)}


def _text_bytes(content: Any) -> int:
    if isinstance(content, str):
        return len(content.encode())
    return sum(len(json.dumps(part, ensure_ascii=False).encode()) for part in content or ())
