"""What the simulator answers: how many tokens, which text, and the JSON around it.

Tokens are counted by rules anybody can check. Input: of each message the UTF-8 bytes of its content
(for a list: of its texts, and the JSON of its other parts) divided by 4, rounded up, at least 1.
Output: the words of the answer, over all its choices; each word is one token. The length of an answer is
what ``metadata.sim_output_tokens`` asks for, else 1 to 128 by a hash of the messages; ``max_tokens`` (or
``max_completion_tokens``) cuts it, with ``finish_reason: length``. ``metadata.sim_cached_tokens`` and
``metadata.sim_reasoning_tokens`` set the details of the usage, so that prices can be tested.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from fairlane.schemas.chat import ChatBody, Message

BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT_TOKENS_MAX = 128
OUTPUT_TOKENS_MAX = 32_768
_ROUND = "the quick brown fox jumps over the lazy dog while seven wise owls watch from an old oak tree "
_WORDS = _ROUND.split()
_ENDS = [len(" ".join(_WORDS[:count])) for count in range(len(_WORDS))]
"""Where the text ends after so many words of a round."""


class BadRequest(ValueError):
    """The body asks for something that cannot be; ``param`` names the parameter."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Answer:
    """One planned answer: every choice has the same ``tokens`` words."""

    answer_id: str
    model: str
    created: int
    choices: int
    tokens: int
    finish_reason: str
    input_tokens: int
    cached_tokens: int
    reasoning_tokens: int

    def completion(self, *, with_usage: bool = True) -> bytes:
        """The ``chat.completion`` object."""
        message = {"role": "assistant", "content": words(0, self.tokens), "refusal": None}
        body: dict[str, Any] = {
            "id": self.answer_id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {"index": index, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
                for index in range(self.choices)
            ],
        }
        if with_usage:
            body["usage"] = self.usage()
        return orjson.dumps(body)

    def usage(self) -> dict[str, Any]:
        """The ``usage`` object."""
        output_tokens = self.tokens * self.choices
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens, "audio_tokens": 0},
        }

    def opening(self, *, include_usage: bool) -> bytes:
        """The first events of a stream: the role of each choice."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(self._event(index, delta, None, include_usage) for index in range(self.choices))

    def pieces(self, words_each: int, *, include_usage: bool) -> Iterator[tuple[int, bytes]]:
        """The text as events, ``words_each`` words at a time, each with the words of a choice sent so far."""
        for start in range(0, self.tokens, words_each):
            end = min(start + words_each, self.tokens)
            delta = {"content": words(start, end)}
            yield end, b"".join(self._event(index, delta, None, include_usage) for index in range(self.choices))

    def ending(self, *, include_usage: bool) -> bytes:
        """The last events of a stream: reasons, usage if asked for, and the end mark."""
        events = [self._event(index, {}, self.finish_reason, include_usage) for index in range(self.choices)]
        if include_usage:
            events.append(_sse(self._chunk([]) | {"usage": self.usage()}))
        return b"".join([*events, b"data: [DONE]\n\n"])

    def _event(self, index: int, delta: dict[str, Any], finish_reason: str | None, include_usage: bool) -> bytes:
        chunk = self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])
        # As at OpenAI: with include_usage every chunk has the field, and only the last one a value.
        return _sse(chunk | {"usage": None} if include_usage else chunk)

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.answer_id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def words(start: int, end: int) -> str:
    """Words ``start`` to ``end`` of the answer; pieces of an answer put together give the answer."""
    if end <= start:
        return ""
    text = _ROUND * (end // len(_WORDS) + 1)
    return text[_characters(start) : _characters(end)]


def _characters(count: int) -> int:
    rounds, rest = divmod(count, len(_WORDS))
    if rest == 0:
        return max(0, rounds * len(_ROUND) - 1)
    return rounds * len(_ROUND) + _ENDS[rest]


def input_tokens(body: ChatBody) -> int:
    """Tokens of the prompt by the rule above."""
    return sum(max(1, -(-_content_bytes(message) // BYTES_PER_TOKEN)) for message in body.messages)


def plan(body: ChatBody, answer_id: str) -> Answer:
    """Decide the answer to a body; raises :class:`BadRequest` for a hint that is no number in range."""
    hints = body.metadata or {}
    wanted = _hint(hints, "sim_output_tokens", OUTPUT_TOKENS_MAX)
    if wanted is None:
        wanted = 1 + _prompt_hash(body) % DEFAULT_OUTPUT_TOKENS_MAX
    limit = body.output_token_limit
    tokens = wanted if limit is None else min(wanted, limit)
    choices = body.n or 1
    prompt = input_tokens(body)
    return Answer(
        answer_id=answer_id,
        model=body.model,
        created=int(time.time()),
        choices=choices,
        tokens=tokens,
        finish_reason="length" if tokens < wanted else "stop",
        input_tokens=prompt,
        cached_tokens=_hint(hints, "sim_cached_tokens", prompt) or 0,
        reasoning_tokens=_hint(hints, "sim_reasoning_tokens", tokens * choices) or 0,
    )


def _hint(hints: dict[str, str], name: str, largest: int) -> int | None:
    text = hints.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) <= largest):
        raise BadRequest(f"metadata.{name} must be a whole number from 0 to {largest}", f"metadata.{name}")
    return int(text)


def _content_bytes(message: Message) -> int:
    if message.content is None:
        return 0
    if isinstance(message.content, str):
        return len(message.content.encode())
    return sum(_part_bytes(part) for part in message.content)


def _part_bytes(part: BaseModel) -> int:
    text = getattr(part, "text", None)
    return len(text.encode()) if isinstance(text, str) else len(part.model_dump_json())


def _prompt_hash(body: ChatBody) -> int:
    value = 0
    for message in body.messages:
        content = message.content
        text = content.encode() if isinstance(content, str) else repr(content).encode()
        value = zlib.crc32(text, value)
    return value


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
