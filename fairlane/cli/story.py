"""The story of one request: what each stage decided, when, and why. Pure: records in, events out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fairlane.cli.record_text import duration, error_text, usd
from fairlane.schemas.base import format_timestamp, timestamp_from_ms, timestamp_to_ms

Fields = Mapping[str, Any]


@dataclass(slots=True)
class Evidence:
    """Records about one request, each with the fields of its public contract, from whatever source.

    ``request`` is the request event with ``received_at``; ``replays`` are later results given to other
    requests with the same idempotency key.
    """

    tenant_id: str
    request_id: str
    request: Fields | None = None
    result: Fields | None = None
    decisions: list[Fields] = field(default_factory=list)
    attempts: list[Fields] = field(default_factory=list)
    dead_letters: list[Fields] = field(default_factory=list)
    replays: list[Fields] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """Whether nothing is known."""
        return not (self.request or self.result or self.decisions or self.attempts or self.dead_letters)

    @property
    def complete(self) -> bool:
        """Whether the result is here and everything it says there was."""
        if self.result is None or len(self.attempts) < self.result["attempts"]:
            return False
        kinds = {decision["kind"] for decision in self.decisions}
        return "dispatched" in kinds if self.result["attempts"] else bool(kinds)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the story. ``after_ms`` counts from the moment the request was received."""

    at_ms: int
    after_ms: int
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Story:
    """What happened, in order, and in one sentence."""

    headline: str
    events: Sequence[Event]


def tell(evidence: Evidence) -> Story:
    """Put the evidence in order of time. Records told twice (redelivered) are told once."""
    events: list[tuple[int, int, str, str]] = []
    _received(evidence, events)
    for decision in _once(evidence.decisions, "decision_id"):
        what, detail = _decision(decision)
        events.append((at_ms(decision["event_time"]), 2, what, detail))
    for attempt in _once(evidence.attempts, "attempt_id"):
        name = f"attempt {attempt['attempt']}"
        events.append((at_ms(attempt["started_at"]), 3, name, _attempt_start(attempt)))
        if attempt.get("first_token_at"):
            events.append((at_ms(attempt["first_token_at"]), 4, name, "first token"))
        events.append((at_ms(attempt["completed_at"]), 5, name, _attempt_end(attempt)))
    events += [
        (at_ms(letter["event_time"]), 6, "dead letter", _dead_letter(letter)) for letter in evidence.dead_letters
    ]
    if evidence.result is not None:
        result = evidence.result
        events.append((at_ms(result["timings"]["completed_at"]), 7, "result", _result(result)))
    for replay in evidence.replays:
        detail = f"the same answer, at no cost, to {replay['request_id']} with the same idempotency key"
        events.append((at_ms(replay["completed_at"]), 8, "replayed", detail))
    events.sort()
    first = events[0][0] if events else 0
    return Story(
        _headline(evidence),
        [Event(at, at - first, what, detail) for at, _, what, detail in events],
    )


def at_ms(value: object) -> int:
    """Milliseconds since the epoch of a wire timestamp, a datetime or milliseconds."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    assert isinstance(value, datetime)
    return timestamp_to_ms(value)


def story_text(story: Story) -> list[str]:
    """The story as aligned lines for people."""
    if not story.events:
        return [story.headline]
    began = format_timestamp(timestamp_from_ms(story.events[0].at_ms))
    offsets = [f"+{duration(event.after_ms)}" for event in story.events]
    offset_width = max(len(text) for text in offsets)
    what_width = max(len(event.what) for event in story.events)
    lines = [story.headline, f"began {began}", ""]
    for offset, event in zip(offsets, story.events, strict=True):
        lines.append(f"{offset.rjust(offset_width)}  {event.what.ljust(what_width)}  {event.detail}")
    return lines


def _received(evidence: Evidence, events: list[tuple[int, int, str, str]]) -> None:
    timings = (evidence.result or {}).get("timings") or {}
    received = timings.get("received_at") or (evidence.request or {}).get("received_at")
    if received is None:
        return
    known = evidence.request or evidence.result or {}
    parts = [f"priority {known.get('priority') or 'normal'}"]
    body = known.get("body")
    if isinstance(body, Mapping) and body.get("model"):
        parts.append(f"model {body['model']}")
    key = known.get("idempotency_key")
    if key and key != evidence.request_id:
        parts.append(f"idempotency key {key}")
    parts += [f"{name}={value}" for name, value in sorted((known.get("labels") or {}).items())]
    events.append((at_ms(received), 0, "received", ", ".join(parts)))


def _decision(decision: Fields) -> tuple[str, str]:
    reason, attributes = decision["reason"], decision.get("attributes") or {}
    kind = str(decision["kind"])
    parts = [reason["message"]]
    if kind == "dispatched" and "waited_ms" in attributes:
        parts = [f"waited {duration(float(attributes['waited_ms']))}: {reason['message']}"]
        parts.append(f"slot group {attributes.get('slot_group', '?')}")
    elif kind == "admitted":
        where = f"to {attributes.get('model', '?')} in pool {attributes.get('pool', '?')}"
        hold = int(attributes.get("hold_nano_usd", "0"))
        parts = [where, reason["message"], f"held {usd(hold)} at {attributes.get('price_id', '?')}"]
    else:
        if reason.get("limit") is not None:
            parts.append(f"{reason.get('used')} of {reason['limit']} {reason.get('unit') or ''}".rstrip())
        if reason.get("suggestion"):
            parts.append(str(reason["suggestion"]))
    parts.append(f"config {decision['config_version']}")
    return kind.replace("_", "-"), "; ".join(str(part) for part in parts)


def _attempt_start(attempt: Fields) -> str:
    return f"calling {attempt['model']} at {attempt['provider']}, from {attempt['worker']}"


def _attempt_end(attempt: Fields) -> str:
    parts = [f"{attempt['status']} after {duration(attempt['model_ms'])}"]
    if attempt.get("http_status"):
        parts.append(f"HTTP {attempt['http_status']}")
    if attempt.get("finish_reason"):
        parts.append(f"finish reason {attempt['finish_reason']}")
    usage = attempt["usage"]
    if usage["input_tokens"] or usage["output_tokens"]:
        parts.append(f"{usage['input_tokens']}+{usage['output_tokens']} tokens")
    if attempt.get("error"):
        parts.append(error_text(attempt["error"]))
    return ", ".join(parts)


def _dead_letter(letter: Fields) -> str:
    redriven = f", redriven {letter['redriven_at']}" if letter.get("redriven_at") else ""
    return f"{letter['dead_letter_id']} by {letter['stage']}: {error_text(letter['error'])}{redriven}"


def _result(result: Fields) -> str:
    parts = [str(result["status"])]
    usage, cost = result["usage"], result["cost"]
    if usage["input_tokens"] or usage["output_tokens"]:
        cached = f" ({usage['cached_input_tokens']} cached)" if usage["cached_input_tokens"] else ""
        parts.append(f"{usage['input_tokens']}{cached} + {usage['output_tokens']} tokens")
    if cost.get("price_id") and not result["replayed"]:
        parts.append(f"{usd(cost['nano_usd'])} at {cost['price_id']}")
    if result["replayed"]:
        parts.append("a stored answer, at no cost")
    if result["cached"]:
        parts.append("from the cache")
    if result.get("error"):
        parts.append(error_text(result["error"]))
    return ", ".join(parts)


def _headline(evidence: Evidence) -> str:
    name = f"{evidence.tenant_id}/{evidence.request_id}"
    result = evidence.result
    if result is not None:
        timings = result["timings"]
        total = at_ms(timings["completed_at"]) - at_ms(timings["received_at"])
        split = ", ".join(f"{part} {duration(timings[part + '_ms'])}" for part in ("queue", "model", "added"))
        cost = f", {usd(result['cost']['nano_usd'])}" if result["cost"]["nano_usd"] else ""
        return f"{name}: {result['status']} after {duration(total)} ({split}){cost}"
    kinds = {decision["kind"] for decision in evidence.decisions}
    if evidence.dead_letters:
        return f"{name}: dead-lettered, {evidence.dead_letters[0]['error']['code']}"
    if "joined" in kinds:
        return f"{name}: waits for the answer of another request with the same idempotency key"
    if "dispatched" in kinds:
        return f"{name}: at a worker, no result yet"
    if "admitted" in kinds:
        return f"{name}: waits in its lane"
    return f"{name}: received, not decided yet" if evidence.request else f"{name}: nothing is known"


def _once(records: Sequence[Fields], identity: str) -> list[Fields]:
    return list({record[identity]: record for record in reversed(records)}.values())[::-1]
