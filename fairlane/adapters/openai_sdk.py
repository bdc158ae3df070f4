"""Calls through the official ``openai`` package, for whoever wants its client; about ten times the CPU."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fairlane.adapters.chat_provider import ChatProvider, HttpAnswer, HttpCall, Transport
from fairlane.clock import Clock

CONNECTIONS_MAX = 1024
_TRANSPORT = "fairlane.adapters.openai_sdk_transport"


class OpenAISdkProvider(ChatProvider):
    """Provider kind ``openai-sdk``."""

    def __init__(self, clock: Clock, *, connections_max: int = CONNECTIONS_MAX) -> None:
        super().__init__(_ImportedWhenUsed(connections_max), clock)


class _ImportedWhenUsed:
    """Importing the package takes most of a second and 40 MB: a worker that never calls it pays neither."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._importing = asyncio.Lock()
        self._transport: Transport | None = None

    @asynccontextmanager
    async def send(self, call: HttpCall) -> AsyncIterator[HttpAnswer]:
        async with (await self._imported()).send(call) as answer:
            yield answer

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def _imported(self) -> Transport:
        async with self._importing:
            if self._transport is None:
                # In a thread, so that calls in flight go on meanwhile.
                module = await asyncio.to_thread(importlib.import_module, _TRANSPORT)
                self._transport = module.OpenAISdkTransport(self._connections_max)
            return self._transport
