"""Calls any OpenAI-compatible address with aiohttp: little CPU per call, for many calls at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache

import aiohttp
from multidict import CIMultiDictProxy
from pydantic_core import to_json
from yarl import URL

from fairlane.adapters.chat_answer import Malformed
from fairlane.adapters.chat_provider import CONNECT_TIMEOUT_S, ChatProvider, ConnectionFailed, HttpAnswer, HttpCall
from fairlane.clock import Clock

CONNECTIONS_MAX = 1024
_NO_ADDRESS = "the provider's base_url is not an address that can be called"


class AiohttpTransport:
    """A pool of at most ``connections_max`` connections; opened by the first call."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def send(self, call: HttpCall) -> AsyncIterator[HttpAnswer]:
        """POST and give the answer; see :class:`~fairlane.adapters.chat_provider.Transport`."""
        headers = {"Content-Type": "application/json", **call.headers}
        if call.key is not None:
            headers["Authorization"] = f"Bearer {call.key}"
        with _failures():
            response = await self._opened().post(
                _completions(call.base_url), data=to_json(call.body), headers=headers, allow_redirects=False
            )
        async with response:
            yield _Answer(response)

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


class _Answer:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    async def read(self) -> bytes:
        with _failures():
            return await self._response.content.readany()


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except aiohttp.InvalidURL:
        raise ConnectionFailed(_NO_ADDRESS) from None
    except aiohttp.ClientResponseError:
        raise Malformed("the provider's answer is not HTTP") from None
    except aiohttp.ClientPayloadError:
        raise ConnectionFailed("the provider's answer ended before it was complete") from None
    except (aiohttp.ClientError, OSError) as failure:
        # The class tells refused from unknown host; the text could hold the address with its secrets.
        raise ConnectionFailed(f"the provider could not be reached ({type(failure).__name__})") from None
