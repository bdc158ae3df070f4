"""Calls any OpenAI-compatible address over HTTP/1.1: little CPU per call, for many calls at once."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

from multidict import CIMultiDict
from pydantic_core import to_json
from yarl import URL

from fairlane.adapters.chat_answer import Malformed
from fairlane.adapters.chat_provider import CONNECT_TIMEOUT_S, ChatProvider, ConnectionFailed, HttpCall
from fairlane.adapters.http.connection import Disconnected, HttpConnection, NotHttp
from fairlane.adapters.http.pool import HttpPool, Origin
from fairlane.clock import Clock

CONNECTIONS_MAX = 1024
_NO_ADDRESS = "the provider's base_url is not an address that can be called"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class HttpTransport:
    """A pool of at most ``connections_max`` connections; opened by the calls."""

    def __init__(self, connections_max: int = CONNECTIONS_MAX) -> None:
        self._connections_max = connections_max
        self._pool: HttpPool | None = None

    def send(self, call: HttpCall) -> _Exchange:
        """POST and give the answer; see :class:`~fairlane.adapters.chat_provider.Transport`."""
        if self._pool is None:
            self._pool = HttpPool(self._connections_max, CONNECT_TIMEOUT_S)
        return _Exchange(self._pool, call)

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class OpenAICompatibleProvider(ChatProvider):
    """Provider kind ``openai-compatible``."""

    def __init__(self, clock: Clock, *, connections_max: int = CONNECTIONS_MAX) -> None:
        super().__init__(HttpTransport(connections_max), clock)


@dataclass(frozen=True, slots=True)
class _Target:
    """What all calls to one base URL have in common; ``head`` ends where the headers of a call begin."""

    origin: Origin
    head: str
    authorization: str | None


@lru_cache(256)
def _target(base_url: str) -> _Target:
    """Worked out once: a catalog names few addresses."""
    try:
        url = URL(base_url + "/chat/completions")
        port = url.port or 0
    except ValueError:
        raise ConnectionFailed(_NO_ADDRESS) from None
    if url.scheme not in _DEFAULT_PORTS or not url.raw_host or not port:
        raise ConnectionFailed(_NO_ADDRESS)
    head = (
        f"POST {url.raw_path_qs} HTTP/1.1\r\n"
        f"Host: {url.host_port_subcomponent}\r\n"
        # The answer as it is: models are slower than networks.
        "User-Agent: fairlane\r\nAccept: */*\r\nAccept-Encoding: identity\r\nContent-Type: application/json\r\n"
    )
    named = url.user is not None or url.password is not None
    credentials = b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
    authorization = f"Basic {credentials}" if named else None
    return _Target(Origin(url.raw_host, port, url.scheme == "https"), head, authorization)


def _request(target: _Target, call: HttpCall) -> bytes:
    body = to_json(call.body)
    lines = [f"Content-Length: {len(body)}"]
    for name, value in call.headers.items():
        if _CONTROL.search(value):
            raise ValueError(f"the header {name} holds a control character")
        lines.append(f"{name}: {value}")
    if call.key is not None:
        lines.append(f"Authorization: Bearer {call.key}")
    elif target.authorization is not None:
        lines.append(f"Authorization: {target.authorization}")
    return (target.head + "\r\n".join(lines) + "\r\n\r\n").encode() + body


class _Exchange:
    """A call and its answer. A class, for there is one a call and a generator costs several times as much."""

    def __init__(self, pool: HttpPool, call: HttpCall) -> None:
        self._pool = pool
        self._call = call
        self._origin: Origin
        self._connection: HttpConnection

    async def __aenter__(self) -> Self:
        target = _target(self._call.base_url)
        request = _request(target, self._call)
        self._origin = target.origin
        try:
            connection = self._connection = await self._pool.take(target.origin)
        except (OSError, UnicodeError) as failure:
            # The class tells refused from unknown host; the text could hold the address with its secrets.
            raise ConnectionFailed(f"the provider could not be reached ({type(failure).__name__})") from None
        try:
            connection.send(request)
            await connection.head()
        except BaseException as failure:
            self._pool.give(self._origin, connection)
            if isinstance(failure, (Disconnected, NotHttp)):
                raise _described(failure) from None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.give(self._origin, self._connection)

    @property
    def status(self) -> int:
        return self._connection.status

    @property
    def headers(self) -> CIMultiDict[str]:
        return self._connection.headers

    async def read(self) -> bytes:
        try:
            return await self._connection.read()
        except (Disconnected, NotHttp) as failure:
            raise _described(failure) from None


def _described(failure: Disconnected | NotHttp) -> ConnectionFailed | Malformed:
    if isinstance(failure, NotHttp):
        return Malformed("the provider's answer is not HTTP")
    return ConnectionFailed("the provider closed the connection before its answer was complete")
