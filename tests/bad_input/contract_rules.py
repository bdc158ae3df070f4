"""The rules of ``fairlane.request.v1`` written down a second time, from the contract, for the oracle.

Each rule gives the exact paths of all that breaks it. Nothing here comes from the product's models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from tests.bad_input.name_rules import shown

SCHEMA, COMMAND = "fairlane.request.v1", "fairlane.command.v1"
ENVELOPE = frozenset(
    ("schema", "request_id", "tenant_id", "idempotency_key", "priority", "deadline", "timeout_ms", "labels", "stream")
) | {"body"}
PRIORITIES = frozenset(["critical", "high", "normal", "low", "batch"])
ROLES = frozenset(["system", "developer", "user", "assistant", "tool", "function"])
_RFC_3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def visible(text: Any, most: int) -> bool:
    """A text of 1 to ``most`` visible ASCII characters."""
    return isinstance(text, str) and 1 <= len(text) <= most and all("!" <= c <= "~" for c in text)


def whole(value: Any, least: float, most: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


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
    paths |= set(_labels(document.get("labels", {})))
    body = document.get("body")
    paths |= {f"body.{path}" for path in _body(body)} if isinstance(body, dict) else {"body"}
    # What lies between fields is looked at once each of them is right.
    if not paths and document.get("deadline") is not None and document.get("timeout_ms") is not None:
        return {"timeout_ms"}
    return paths


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
    if isinstance(labels, dict) and len(labels) <= 16:
        for name, value in labels.items():
            bad_value = not isinstance(value, str) or len(value) > 256 or any(c < " " or c == "\x7f" for c in value)
            if bad_value or not visible(name, 63):
                yield f"labels.{shown(name)}"


Rule = Callable[[Any], Iterable[str]]
"""The paths below a value at which it breaks a rule; the empty one stands for the value itself."""


def _optional(rule: Rule) -> Rule:
    return lambda value: () if value is None else rule(value)


def _if(holds: Callable[[Any], bool]) -> Rule:
    return _optional(lambda value: () if holds(value) else ("",))


def _one_of(*names: str) -> Rule:
    return _if(lambda value: isinstance(value, str) and value in names)


def _between(least: float, most: float) -> Rule:
    return _if(lambda value: number(value, least, most))


def _count(least: float, most: float = float("inf")) -> Rule:
    return _if(lambda value: whole(value, least, most))


def _of(*kinds: type) -> Rule:
    return _if(lambda value: isinstance(value, kinds))


def _list_of(holds: Callable[[Any], bool], most: float = float("inf")) -> Rule:
    def rule(value: Any) -> Iterator[str]:
        if not isinstance(value, list):
            yield ""
            return
        wrong = [f".{index}" for index, member in enumerate(value) if not holds(member)]
        yield from wrong[:1]
        if len(value) > most:
            yield ""

    return _optional(rule)


def _map_of(holds: Callable[[Any], bool], most: int) -> Rule:
    def rule(value: Any) -> Iterator[str]:
        if not isinstance(value, dict) or len(value) > most:
            yield ""
            return
        yield from (f".{shown(name)}" for name, member in value.items() if not holds(member))

    return _optional(rule)


def _text_or(rule: Rule) -> Rule:
    return lambda value: () if isinstance(value, str) else rule(value)


def _stream_options(value: Any) -> Iterator[str]:
    if not isinstance(value, dict) or len(value) > 8:
        yield ""
        return
    for name, option in value.items():
        if name not in ("include_usage", "include_obfuscation"):
            yield f".{shown(name)}"
        elif option is not None and not isinstance(option, bool):
            yield f".{name}"


PARAMETERS: dict[str, Rule] = {
    "model": lambda v: () if isinstance(v, str) and 1 <= len(v) <= 256 else ("",),
    "max_tokens": _count(1),
    "max_completion_tokens": _count(1),
    "temperature": _between(0, 2),
    "top_p": _between(0, 1),
    "n": _count(1, 128),
    "stop": _text_or(_list_of(lambda v: isinstance(v, str), 4)),
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
    "tools": _list_of(lambda v: isinstance(v, dict)),
    "tool_choice": _of(str, dict),
    "parallel_tool_calls": _of(bool),
    "functions": _list_of(lambda v: isinstance(v, dict)),
    "function_call": _of(str, dict),
    "reasoning_effort": _one_of("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": _one_of("low", "medium", "high"),
    "modalities": _list_of(lambda v: v in ("text", "audio")),
    "audio": _of(dict),
    "prediction": _of(dict),
    "service_tier": _one_of("auto", "default", "flex", "scale", "priority"),
    "store": _of(bool),
    "metadata": _map_of(lambda v: isinstance(v, str), 16),
    "web_search_options": _of(dict),
    "stream": _of(bool),
    "stream_options": _optional(_stream_options),
}


def _body(body: dict[str, Any]) -> Iterator[str]:
    wrong = [f"{name}{below}" for name, rule in PARAMETERS.items() for below in rule(body.get(name))]
    messages = body.get("messages")
    if isinstance(messages, list) and messages:
        wrong += _first_wrong_message(messages)
    else:
        wrong.append("messages")
    yield from wrong
    if not wrong:
        called = False
        for index, message in enumerate(messages or ()):
            if message["role"] == "tool" and not called:
                yield f"messages.{index}"
                return
            called = message["role"] == "tool" or "tool_calls" in message


def _first_wrong_message(messages: list[Any]) -> list[str]:
    """What is wrong with the first message that is: those behind it are not looked at."""
    for index, message in enumerate(messages):
        if wrong := [f"messages.{index}{below}" for below in _message(message)]:
            return wrong
    return []


def _message(message: Any) -> Iterator[str]:
    if not isinstance(message, dict):
        yield ""
        return
    role, author, content = message.get("role"), message.get("name"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        yield ".role"
    if not (author is None or isinstance(author, str)):
        yield ".name"
    if isinstance(content, list) and content:
        for index, part in enumerate(content):
            if below := _part(part):
                yield f".content.{index}{below[0]}"
                return
    elif not (content is None or isinstance(content, str)):
        yield ".content"


_PART_RULES: dict[str, tuple[str, type]] = {
    "text": ("text", str),
    "image_url": ("image_url", dict),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
    "refusal": ("refusal", str),
}


def _part(part: Any) -> tuple[str, ...]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in _PART_RULES:
        return ("",)
    member, wanted = _PART_RULES[kind]
    return () if isinstance(part.get(member), wanted) else (f".{member}",)


def broken_command(document: dict[str, Any]) -> set[str]:
    """The paths of all that breaks ``fairlane.command.v1``; its schema may be left out."""
    rules: dict[str, bool] = {
        "schema": document.get("schema", COMMAND) == COMMAND,
        "command": document.get("command") == "cancel",
        "tenant_id": visible(document.get("tenant_id"), 128),
        "request_id": visible(document.get("request_id"), 128),
    }
    return {name for name, holds in rules.items() if not holds} | {shown(n) for n in document if n not in rules}
