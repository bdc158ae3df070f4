"""The rules of ``fairlane.request.v1`` written down a second time, from the contract, for the oracle.

Each rule gives the path of a field that breaks it. Nothing here comes from the product's models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

SCHEMA = "fairlane.request.v1"
ENVELOPE = frozenset(
    ("schema", "request_id", "tenant_id", "idempotency_key", "priority", "deadline", "timeout_ms", "labels", "stream")
) | {"body"}
PRIORITIES = frozenset(["critical", "high", "normal", "low", "batch"])
ROLES = frozenset(["system", "developer", "user", "assistant", "tool", "function"])
_RFC_3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def visible(text: Any, most: int) -> bool:
    """A text of 1 to ``most`` visible ASCII characters."""
    return isinstance(text, str) and 1 <= len(text) <= most and all("!" <= c <= "~" for c in text)


def whole(value: Any, least: float, most: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def shown(name: str) -> str:
    """How a name of the sender's choice may stand in a path."""
    return name if _PLAIN_NAME.fullmatch(name) else "?"


def instant(value: Any) -> datetime | None:
    """The time a deadline names, or None if it is none from 2000 to 9998."""
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        return None
    try:
        found = datetime.fromisoformat(value.upper())
        if 2000 <= found.year <= 9998 and 2000 <= (found := found.astimezone(UTC)).year <= 9998:
            return found
    except ValueError:
        return None
    return None


def broken(document: dict[str, Any]) -> set[str]:
    """The paths of all that breaks the contract. One of them must be named."""
    unknown = [name for name in document if name not in ENVELOPE]
    if unknown:
        return {shown(name) for name in unknown}
    paths = {name for name, holds in _ENVELOPE_RULES.items() if not holds(document.get(name, _DEFAULTS.get(name)))}
    if document.get("deadline") is not None and document.get("timeout_ms") is not None:
        paths.add("timeout_ms")
    paths |= set(_labels(document.get("labels", {})))
    body = document.get("body")
    return paths | ({f"body.{path}" for path in _body(body)} if isinstance(body, dict) else {"body"})


_DEFAULTS: dict[str, Any] = {"priority": "normal", "labels": {}, "stream": False}
_ENVELOPE_RULES: dict[str, Callable[[Any], bool]] = {
    "schema": lambda v: v == SCHEMA,
    "request_id": lambda v: visible(v, 128),
    "tenant_id": lambda v: visible(v, 128),
    "idempotency_key": lambda v: v is None or visible(v, 255),
    "priority": lambda v: isinstance(v, str) and v in PRIORITIES,
    "deadline": lambda v: v is None or instant(v) is not None,
    "timeout_ms": lambda v: v is None or whole(v, 1, 86_400_000),
    "labels": lambda v: isinstance(v, dict) and len(v) <= 16,
    "stream": lambda v: isinstance(v, bool),
}


def _labels(labels: Any) -> Iterator[str]:
    if isinstance(labels, dict):
        for name, value in labels.items():
            bad_value = not isinstance(value, str) or len(value) > 256 or any(c < " " or c == "\x7f" for c in value)
            if bad_value or not visible(name, 63):
                yield f"labels.{shown(name)}"


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _one_of(*names: str) -> Callable[[Any], bool]:
    return _optional(lambda value: isinstance(value, str) and value in names)


def _between(least: float, most: float) -> Callable[[Any], bool]:
    return _optional(lambda value: number(value, least, most))


def _count(least: float, most: float = float("inf")) -> Callable[[Any], bool]:
    return _optional(lambda value: whole(value, least, most))


def _of(*kinds: type) -> Callable[[Any], bool]:
    return _optional(lambda value: isinstance(value, kinds))


def _list_of(kind: type, most: float = float("inf")) -> Callable[[Any], bool]:
    return _optional(
        lambda value: isinstance(value, list) and len(value) <= most and all(isinstance(v, kind) for v in value)
    )


def _map_of(rule: Callable[[Any], bool], most: int) -> Callable[[Any], bool]:
    return _optional(lambda value: isinstance(value, dict) and len(value) <= most and all(map(rule, value.values())))


def _text_or(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) or rule(value)


PARAMETERS: dict[str, Callable[[Any], bool]] = {
    "model": lambda v: isinstance(v, str) and 1 <= len(v) <= 256,
    "max_tokens": _count(1),
    "max_completion_tokens": _count(1),
    "temperature": _between(0, 2),
    "top_p": _between(0, 1),
    "n": _count(1, 128),
    "stop": _text_or(_list_of(str, 4)),
    "presence_penalty": _between(-2, 2),
    "frequency_penalty": _between(-2, 2),
    "logit_bias": _map_of(lambda v: number(v, -100, 100), 1024),
    "logprobs": _of(bool),
    "top_logprobs": _count(0, 20),
    "seed": _count(-(2**63), 2**63 - 1),
    "user": _of(str),
    "safety_identifier": _of(str),
    "prompt_cache_key": _of(str),
    "response_format": _of(dict),
    "tools": _list_of(dict),
    "tool_choice": _of(str, dict),
    "parallel_tool_calls": _of(bool),
    "functions": _list_of(dict),
    "function_call": _of(str, dict),
    "reasoning_effort": _one_of("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": _one_of("low", "medium", "high"),
    "modalities": _optional(lambda v: isinstance(v, list) and all(m in ("text", "audio") for m in v)),
    "audio": _of(dict),
    "prediction": _of(dict),
    "service_tier": _one_of("auto", "default", "flex", "scale", "priority"),
    "store": _of(bool),
    "metadata": _map_of(lambda v: isinstance(v, str), 16),
    "web_search_options": _of(dict),
    "stream": _of(bool),
    "stream_options": _optional(
        lambda v: (
            isinstance(v, dict)
            and v.keys() <= {"include_usage", "include_obfuscation"}
            and all(option is None or isinstance(option, bool) for option in v.values())
        )
    ),
}


def _body(body: dict[str, Any]) -> Iterator[str]:
    for name, holds in PARAMETERS.items():
        if not holds(body.get(name)):
            yield name
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages"
        return
    called = False
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            yield f"messages.{index}"
            continue
        role, author = message.get("role"), message.get("name")
        if not isinstance(role, str) or role not in ROLES or (role == "tool" and not called):
            yield f"messages.{index}"
        if not (author is None or isinstance(author, str)) or not _content(message.get("content")):
            yield f"messages.{index}"
        called = role == "tool" or "tool_calls" in message


_PART_RULES: dict[str, tuple[str, type]] = {
    "text": ("text", str),
    "image_url": ("image_url", dict),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
    "refusal": ("refusal", str),
}


def _content(content: Any) -> bool:
    if content is None or isinstance(content, str):
        return True
    if not isinstance(content, list) or not content:
        return False
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _PART_RULES:
            return False
        member, wanted = _PART_RULES[kind]
        if not isinstance(part.get(member), wanted):
            return False
    return True
