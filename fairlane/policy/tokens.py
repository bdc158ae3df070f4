"""Bounds and estimates of prompt tokens without a tokenizer.

A byte-level BPE token stands for at least one byte, so the UTF-8 length is an upper bound: that is
what a hold uses. For scheduling, four bytes a token is the usual mean for English
(https://platform.openai.com/tokenizer). Both add the few tokens chat formats put around a message
(https://github.com/openai/openai-cookbook, "How to count tokens with tiktoken": 3 a message, 1 for
a name, 3 for the reply).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BYTES_PER_TOKEN = 4
PER_MESSAGE = 4
PER_REPLY = 3
PER_MEDIA_PART = 4096
"""Upper bound for an image, audio or file part given by reference, whose size is not in the request."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """An upper bound and an estimate of the same prompt."""

    upper: int
    estimate: int


def count_prompt(body: Mapping[str, Any]) -> PromptTokens:
    """Bound the prompt of a chat-completions body: messages, tools and response format."""
    size, media, messages = 0, 0, body.get("messages") or []
    for message in messages:
        for name, value in message.items():
            if name == "content" and isinstance(value, str):
                size += len(value.encode())
            elif name == "content" and isinstance(value, list):
                for part in value:
                    media += part.get("type") not in ("text", "refusal")
                    size += _size(part)
            elif name != "role":
                size += _size(value)
    for name in ("tools", "functions", "response_format", "prediction"):
        if body.get(name):
            size += _size(body[name])
    around = PER_MESSAGE * len(messages) + PER_REPLY
    return PromptTokens(
        upper=size + around + media * PER_MEDIA_PART,
        estimate=-(-size // BYTES_PER_TOKEN) + around,
    )


def _size(value: Any) -> int:
    """UTF-8 bytes of all text in a JSON value, its keys and numbers included."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping):
        return sum(len(str(key).encode()) + 2 + _size(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return sum(1 + _size(item) for item in value)
    return len(str(value))
