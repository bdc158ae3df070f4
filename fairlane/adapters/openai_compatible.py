"""Calls any OpenAI-compatible address with aiohttp: little CPU per call, for many calls at once."""

from __future__ import annotations

from functools import lru_cache
from types import TracebackType
from typing import Self

import aiohttp
from multidict import CIMultiDictProxy
from pydantic_core import to_json
from yarl import URL

from fairlane.adapters.chat_answer import Malformed
from fairlane.adapters.chat_provider import CONNECT_TIMEOUT_S, ChatProvider, ConnectionFailed, HttpCall
from fairlane.clock import Clock

CONNECTIONS_MAX = 1024
_NO_ADDRESS = "the provider's base_url is not an address that can be called"


class AiohttpTransport:
    """A pool of at most ``connections_max`` connections; opened by the first call."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    def send(self, call: HttpCall) -> _Exchange:
        """POST and give the answer; see :class:`~fairlane.adapters.chat_provider.Transport`."""
        return _Exchange(self._opened(), call)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections_max),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                # Cookies of one tenant's call have no business in another's.
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "fairlane"},
            )
        return self._session


class OpenAICompatibleProvider(ChatProvider):
    """Provider kind ``openai-compatible``."""

    def __init__(self, clock: Clock, *, connections_max: int = CONNECTIONS_MAX) -> None:
        super().__init__(AiohttpTransport(connections_max), clock)


@lru_cache(256)
def _completions(base_url: str) -> URL:
    """Parsed once: a catalog names few addresses, and each call would parse its own again."""
    try:
        return URL(base_url + "/chat/completions")
    except ValueError:
        raise ConnectionFailed(_NO_ADDRESS) from None


class _Exchange:
    """A call and its answer. A class, for there is one a call and a generator costs several times as much."""

    def __init__(self, session: aiohttp.ClientSession, call: HttpCall) -> None:
        self._session = session
        self._call = call
        self._response: aiohttp.ClientResponse

    async def __aenter__(self) -> Self:
        call = self._call
        headers = {"Content-Type": "application/json", **call.headers}
        if call.key is not None:
            headers["Authorization"] = f"Bearer {call.key}"
        try:
            self._response = await self._session.post(
                _completions(call.base_url), data=to_json(call.body), headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as failure:
            raise _described(failure) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.release()
        await self._response.wait_for_close()

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as failure:
            raise _described(failure) from None


def _described(failure: Exception) -> ConnectionFailed | Malformed:
    if isinstance(failure, aiohttp.InvalidURL):
        return ConnectionFailed(_NO_ADDRESS)
    if isinstance(failure, aiohttp.ClientResponseError):
        return Malformed("the provider's answer is not HTTP")
    if isinstance(failure, aiohttp.ClientPayloadError):
        return ConnectionFailed("the provider's answer ended before it was complete")
    # The class tells refused from unknown host; the text could hold the address with its secrets.
    return ConnectionFailed(f"the provider could not be reached ({type(failure).__name__})")
