"""What a request may come to, counted again from its body: the bounds of its hold and of its charge.

A token is a byte at least, and four of them are taken for one where an estimate will do; chat formats put four tokens
around a message and three before the reply. Messages of these worlds are a role and a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

BYTES_A_TOKEN = 4
AROUND_MESSAGE = 4
BEFORE_REPLY = 3
OUTPUT_UNITS = 2
"""A token of output is two units of service, one of input is one."""


class Limits(NamedTuple):
    """The least and the most that something may be, both allowed."""

    least: int
    most: int


def prompt_tokens(body: Mapping[str, Any]) -> Limits:
    """What a hold may count as prompt: its bytes, and with them what stands around messages."""
    size = _bytes(body)
    return Limits(size, size + _around(body))


def charge_units(body: Mapping[str, Any]) -> Limits:
    """What a dispatch may be charged: the estimated prompt, with no output or with all that is allowed."""
    prompt = (_bytes(body) + BYTES_A_TOKEN - 1) // BYTES_A_TOKEN + _around(body)
    return Limits(prompt, prompt + OUTPUT_UNITS * int(body["max_tokens"]))


def _bytes(body: Mapping[str, Any]) -> int:
    return sum(len(message["content"].encode()) for message in body["messages"])


def _around(body: Mapping[str, Any]) -> int:
    return AROUND_MESSAGE * len(body["messages"]) + BEFORE_REPLY
