"""One line of text for a record of each public topic, for people. Never shows bodies or prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fairlane.ports import Record
from fairlane.schemas.base import format_timestamp, timestamp_from_ms

Fields = Mapping[str, Any]
NANO_PER_USD = 1_000_000_000
_TEXT_MAX = 160


def usd(nano_usd: int) -> str:
    """An exact amount: ``$0.00000855``; at least two decimals, no float on the way."""
    whole, fraction = divmod(nano_usd, NANO_PER_USD)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{decimals}"


def duration(milliseconds: float) -> str:
    """``3.1 ms``, ``4.25 s`` or ``2 min 05 s``."""
    if milliseconds < 1000:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.2f} s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds:02d} s"


def result_text(result: Fields) -> str:
    """How a request ended, where, how long it took and what it cost."""
    parts = [str(result["status"])]
    route = result.get("route")
    if route:
        parts.append(str(route["model"]))
    timings = result["timings"]
    parts.append(f"queue {duration(timings['queue_ms'])}")
    if timings["model_ms"]:
        parts.append(f"model {duration(timings['model_ms'])}")
    usage = result["usage"]
    if usage["input_tokens"] or usage["output_tokens"]:
        parts.append(f"{usage['input_tokens']}+{usage['output_tokens']} tokens")
    if result["cost"]["nano_usd"]:
        parts.append(usd(result["cost"]["nano_usd"]))
    if result.get("replayed"):
        parts.append("replayed")
    error = result.get("error")
    if error:
        parts.append(error_text(error))
    return ", ".join(parts)


def error_text(error: Fields) -> str:
    """Code, message, field and what to do."""
    text = f"{error['code']}: {error['message']}"
    if error.get("field"):
        text += f" (field {error['field']})"
    if error.get("hint"):
        text += f" {error['hint']}"
    return text


def fields_of(record: Record) -> dict[str, Any]:
    """The members of the value; none where it is no JSON object: anybody may write to a topic."""
    try:
        value = json.loads(record.value or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def record_line(topic: str, record: Record) -> str:
    """One line for a record of the topic with this registry name."""
    time = format_timestamp(timestamp_from_ms(record.timestamp_ms))[11:-1]
    key = (record.key or b"").decode(errors="replace")
    if record.value is None:
        return f"{time}  {key}  deleted"
    try:
        value = json.loads(record.value)
    except (ValueError, RecursionError):
        return f"{time}  {key}  not JSON, {len(record.value)} bytes"
    describe = _DESCRIBE.get(topic, _any)
    try:
        return f"{time}  {describe(value)}"
    except (KeyError, TypeError, AttributeError):
        return f"{time}  {key}  not as its contract says, {len(record.value)} bytes"


def _who(value: Fields) -> str:
    return f"{value.get('tenant_id') or '-'}  {value.get('request_id') or '-'}"


def _request(value: Fields) -> str:
    body = value["body"]
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    text = f"{_who(value)}  {body['model']}, {value.get('priority', 'normal')}, {len(body['messages'])} messages"
    return text + (f", at most {limit} tokens" if limit else "")


def _result(value: Fields) -> str:
    return f"{_who(value)}  {result_text(value)}"


def _decision(value: Fields) -> str:
    return f"{_who(value)}  {value['stage']} {value['kind']}: {value['reason']['message']}"


def _attempt(value: Fields) -> str:
    text = f"{_who(value)}  attempt {value['attempt']} {value['status']}, {value['model']} at {value['provider']}"
    text += f", {duration(value['model_ms'])}"
    return text + (f", {error_text(value['error'])}" if value.get("error") else "")


def _chunk(value: Fields) -> str:
    last = ", last" if value.get("last") else ""
    return f"{_who(value)}  attempt {value['attempt']} chunk {value['sequence']}{last}"


def _dead_letter(value: Fields) -> str:
    return f"{_who(value)}  {value['dead_letter_id']}, {value['stage']}: {error_text(value['error'])}"


def _command(value: Fields) -> str:
    return f"{_who(value)}  {value['command']}"


def _tenant(value: Fields) -> str:
    return f"{value['tenant_id']}  {value['status']}, weight {value['weight']:g}"


def _any(value: Fields) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"


_DESCRIBE: dict[str, Callable[[Fields], str]] = {
    "requests": _request,
    "results": _result,
    "decisions": _decision,
    "attempts": _attempt,
    "chunks": _chunk,
    "dead-letters": _dead_letter,
    "commands": _command,
    "tenants": _tenant,
}
