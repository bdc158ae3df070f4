"""Reading a ``chat.completion``: whether it is one, and what it bills.

A provider that reports no usage is billed by an estimate that anybody can repeat: input as
:func:`~fairlane.policy.tokens.count_prompt` estimates it, so never above what was held for it; output is
the bytes of what the choices say divided by 4, rounded up, at most the limit that was sent. The answer
then carries ``usage_estimated``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from fairlane.policy.tokens import BYTES_PER_TOKEN, count_prompt
from fairlane.ports import Completion
from fairlane.schemas.result import Usage

_ANSWER_FIELDS = ("content", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call", "audio")


ANSWER_DEPTH_MAX = 100
"""Levels of an answer. Our decoders read 200 (the limit of jiter), and a result puts the answer some levels down."""


class Malformed(ValueError):
    """The answer is not a chat completion. The message tells what is wrong, not what was answered."""


def parse(content: bytes) -> dict[str, Any]:
    """Parse and check a whole answer; raises :class:`Malformed`."""
    try:
        answer = from_json(content, allow_inf_nan=False)
    except ValueError:
        raise Malformed("the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise Malformed("the answer is JSON, but not an object")
    # No document nests deeper than it has brackets, and most answers have a dozen.
    if content.count(b"{") + content.count(b"[") > ANSWER_DEPTH_MAX:
        check_depth(answer)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Malformed("the answer has no choices")
    if not all(isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices):
        raise Malformed("a choice of the answer has no message")
    return answer


def check_depth(document: Mapping[str, Any]) -> None:
    """Raise :class:`Malformed` where it nests deeper than any record of ours could hold it."""
    level: list[Any] = [document]
    for _ in range(ANSWER_DEPTH_MAX):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [member for inside in members for member in inside if isinstance(member, dict | list)]
        if not level:
            return
    raise Malformed(f"the answer is nested deeper than {ANSWER_DEPTH_MAX} levels")


def completion(
    question: Mapping[str, Any], answer: dict[str, Any], *, http_status: int, provider_request_id: str | None
) -> Completion:
    """A parsed answer with its usage, reported or estimated. ``question`` is the body that was sent."""
    reported = reported_usage(answer.get("usage"))
    reason = answer["choices"][0].get("finish_reason")
    return Completion(
        response=answer,
        usage=reported or estimated_usage(question, answer),
        http_status=http_status,
        provider_request_id=provider_request_id,
        finish_reason=reason if isinstance(reason, str) else None,
        usage_estimated=reported is None,
    )


def reported_usage(usage: object) -> Usage | None:
    """The tokens in a ``usage`` object, or None if they cannot be read. Details never exceed their totals."""
    if not isinstance(usage, dict):
        return None
    try:
        total = Usage.model_validate(
            {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}
        )
    except ValidationError:
        return None
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens", total.input_tokens)
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens", total.output_tokens)
    if not cached and not reasoning:
        return total
    return total.model_copy(update={"cached_input_tokens": cached, "reasoning_tokens": reasoning})


def estimated_usage(question: Mapping[str, Any], answer: Mapping[str, Any]) -> Usage:
    """Tokens by the rule at the top of this module."""
    messages = [choice.get("message", {}) for choice in answer.get("choices", ())]
    said = sum(_size(message.get(field)) for message in messages for field in _ANSWER_FIELDS)
    output = -(-said // BYTES_PER_TOKEN)
    limit = question.get("max_completion_tokens") or question.get("max_tokens")
    if limit is not None:
        output = min(output, limit * (question.get("n") or 1))
    return Usage(input_tokens=count_prompt(question).estimate, output_tokens=output)


def _detail(usage: Mapping[str, Any], details: str, name: str, largest: int) -> int:
    found = usage.get(details)
    value = found.get(name) if isinstance(found, dict) else None
    # bool is an int to Python, and a provider's details are optional extras: what is odd counts as absent.
    return min(max(value, 0), largest) if type(value) is int else 0


def _size(value: object) -> int:
    if value is None:
        return 0
    return len(value.encode()) if isinstance(value, str) else len(to_json(value))
