"""The ``openai`` package's client as a :class:`~fairlane.adapters.chat_provider.Transport`.

The package's own retries are off: retries belong to one layer only, and it is not this one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx2
import openai

from fairlane.adapters.chat_answer import Malformed
from fairlane.adapters.chat_failures import ERROR_BODY_BYTES
from fairlane.adapters.chat_provider import CONNECT_TIMEOUT_S, ConnectionFailed, HttpAnswer, HttpCall

ADDRESSES_MAX = 64
"""Clients kept, one an address over one pool of connections; the oldest goes first."""


class OpenAISdkTransport:
    """A pool of at most ``connections_max`` connections; opened by the first call."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._http: httpx2.AsyncClient | None = None
        self._clients: dict[str, openai.AsyncOpenAI] = {}

    @asynccontextmanager
    async def send(self, call: HttpCall) -> AsyncIterator[HttpAnswer]:
        """POST and give the answer; see :class:`~fairlane.adapters.chat_provider.Transport`."""
        authorization = openai.omit if call.key is None else f"Bearer {call.key}"
        with _failures():
            opening = self._client(call.base_url).chat.completions.with_streaming_response.create(
                model=call.body["model"],
                messages=call.body["messages"],
                stream=call.stream,
                # Not as keywords: the package refuses parameters it does not know yet.
                extra_body=call.body,
                extra_headers={**call.headers, "Authorization": authorization},
            )
            try:
                answer = await opening.__aenter__()
            except openai.APIStatusError as failure:
                yield _Refusal(failure.response)
                return
        try:
            yield _Answer(answer.http_response)
        finally:
            await answer.close()

    async def close(self) -> None:
        """Close all connections."""
        self._clients.clear()
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _client(self, base_url: str) -> openai.AsyncOpenAI:
        client = self._clients.get(base_url)
        if client is None:
            if len(self._clients) >= ADDRESSES_MAX:
                del self._clients[next(iter(self._clients))]
            client = self._clients[base_url] = openai.AsyncOpenAI(
                base_url=base_url,
                # Never sent: the key goes with each call, so that a changed variable counts at once.
                api_key="unused",
                max_retries=0,
                timeout=None,
                http_client=self._opened(),
            )
        return client

    def _opened(self) -> httpx2.AsyncClient:
        if self._http is None:
            self._http = httpx2.AsyncClient(
                limits=httpx2.Limits(max_connections=self._connections_max),
                timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
                follow_redirects=False,
                # The same in both adapters: proxies of the environment are not used.
                trust_env=False,
                event_hooks={"response": [_bound_refusals]},
            )
        return self._http


class _Answer:
    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._parts = response.aiter_bytes()

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> httpx2.Headers:
        return self._response.headers

    async def read(self) -> bytes:
        with _failures():
            return await anext(self._parts, b"")


class _Refusal:
    """An answer that the package has read already, because its status is no success."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._content = response.content

    async def read(self) -> bytes:
        content, self._content = self._content, b""
        return content


async def _bound_refusals(response: httpx2.Response) -> None:
    # The package reads the body of a failure whole before it says so.
    if not response.is_success and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            yield part
            size += len(part)
            if size >= ERROR_BODY_BYTES:
                return

    async def aclose(self) -> None:
        await self._inner.aclose()


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except openai.APIConnectionError as failure:
        cause = failure.__cause__
        raise _mapped(cause if isinstance(cause, Exception) else failure) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as failure:
        raise _mapped(failure) from None


def _mapped(failure: Exception) -> ConnectionFailed | Malformed:
    match failure:
        case httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return ConnectionFailed("the provider's base_url is not an address that can be called")
        case httpx2.RemoteProtocolError() if "illegal" in str(failure) or "Malformed" in str(failure):
            return Malformed("the provider's answer is not HTTP")
        case httpx2.DecodingError():
            return Malformed("the provider's answer cannot be decompressed")
        case httpx2.RemoteProtocolError() | httpx2.ReadError():
            return ConnectionFailed("the provider's answer ended before it was complete")
    # The class tells refused from unknown host; the text could hold the address with its secrets.
    return ConnectionFailed(f"the provider could not be reached ({type(failure).__name__})")
