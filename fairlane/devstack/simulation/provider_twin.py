"""A provider that answers as the prompt says, unless the world is such that it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from fairlane.devstack.simulation.conditions import Conditions
from fairlane.ports import Call, Completion, Delta, ProviderError
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.result import Usage

MODEL_S = 0.25
"""Longest time of an answer."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call as the provider saw it begin, and the tokens of its whole answer."""

    at_s: float
    request: str
    caller: str
    input_tokens: int
    output_tokens: int


def prompt_text(tenant_id: str, request_id: str, output_tokens: int) -> str:
    """A prompt that this provider answers with so many tokens, and with its own words."""
    return f"{tenant_id} {request_id} {output_tokens}"


class SimulatedProvider:
    """See :class:`~fairlane.ports.Provider`. ``calls`` is shared by all processes of a world."""

    def __init__(self, conditions: Conditions, caller: str, calls: list[Called]) -> None:
        self._conditions = conditions
        self._caller = caller
        self._calls = calls

    async def complete(self, call: Call) -> Completion:
        """One whole answer."""
        return await self._answer(call, *self._begin(call))

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Completion, None]:
        """Two pieces, then the whole."""
        text, usage = self._begin(call)
        left_s = call.timeout_s
        for piece in text.split()[:2]:
            pause_s = self._conditions.rng.random() * 0.02
            await asyncio.sleep(min(pause_s, left_s))
            left_s -= pause_s
            if left_s <= 0:
                raise ProviderError(error(ErrorCode.PROVIDER_TIMEOUT))
            yield Delta({"choices": [{"delta": {"content": piece}}]})
        yield await self._answer(replace(call, timeout_s=left_s), text, usage)

    async def close(self) -> None:
        """Nothing to close."""

    async def _answer(self, call: Call, text: str, usage: Usage) -> Completion:
        rng, mode = self._conditions.rng, self._conditions.provider
        needed_s = rng.random() * MODEL_S * (8 if mode == "slow" else 1)
        if mode == "hanging" and rng.random() < 0.7:
            needed_s = float("inf")
        await asyncio.sleep(min(needed_s, call.timeout_s))
        if needed_s >= call.timeout_s:
            raise ProviderError(error(ErrorCode.PROVIDER_TIMEOUT))
        if mode == "failing" and rng.random() < 0.7:
            raise ProviderError(error(ErrorCode.PROVIDER_UNAVAILABLE), http_status=503)
        if mode == "cutting" and rng.random() < 0.7:
            part = usage.model_copy(update={"output_tokens": usage.output_tokens // 2})
            raise ProviderError(error(ErrorCode.PROVIDER_UNAVAILABLE), billed=part, usage_estimated=True)
        if mode == "broken" and rng.random() < 0.3:
            raise RuntimeError("a bug in an adapter")
        return Completion({"object": "chat.completion", "text": text}, usage, 200, finish_reason="stop")

    def _begin(self, call: Call) -> tuple[str, Usage]:
        text = str(call.body["messages"][-1]["content"])
        wanted = int(text.rsplit(" ", 1)[-1])
        limit = int(call.body.get("max_tokens") or wanted)
        usage = Usage(input_tokens=max(1, len(text) // 4), output_tokens=min(wanted, limit))
        now = asyncio.get_running_loop().time()
        self._calls.append(Called(now, call.request_id, self._caller, usage.input_tokens, usage.output_tokens))
        return text, usage
