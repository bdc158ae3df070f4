"""Keeps connections of an HTTP/1.1 client for the next call to the same address; a bounded number of them."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from socket import SOCK_STREAM
from typing import Any

from aiohappyeyeballs import start_connection

from fairlane.adapters.http.connection import HttpConnection

IDLE_S = 15.0
"""A connection that nobody used for so long is closed: the other side may do so at any moment, and the call that it
happens to would fail. As aiohttp has it; servers commonly wait for 60 s or more."""
LOOKUP_S = 10.0
"""The addresses of a name are used for so long, as aiohttp has it: not each of a thousand connections asks for them."""
NEXT_ADDRESS_S = 0.25
"""An address of a host that does not answer for so long is no longer waited for alone: RFC 8305 section 5."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads. ``host`` is a name or an IP address without brackets."""

    host: str
    port: int
    tls: bool


class HttpPool:
    """At most ``connections_max`` connections in all; who wants one more waits. ``connect_s`` bounds a connect."""

    def __init__(self, connections_max: int, connect_s: float) -> None:
        self._connections_max = connections_max
        self._connect_s = connect_s
        self._places = asyncio.Semaphore(connections_max)
        # Each the one idle for longest first.
        self._idle: dict[Origin, deque[HttpConnection]] = {}
        self._idle_count = 0
        self._in_use: set[HttpConnection] = set()
        self._taken = 0
        self._tls: ssl.SSLContext | None = None
        self._lookups: dict[Origin, asyncio.Task[list[Any]]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def take(self, origin: Origin) -> HttpConnection:
        """A connection that is free; :meth:`give` it back. Raises OSError (TimeoutError among them, and ssl's)."""
        await self._places.acquire()
        self._taken += 1
        try:
            connection = self._reused(origin) or await self._connected(origin)
        except BaseException:
            self._leave()
            raise
        self._in_use.add(connection)
        return connection

    def give(self, origin: Origin, connection: HttpConnection) -> None:
        """Take it back: kept if another request can follow on it, else closed."""
        self._in_use.discard(connection)
        self._leave()
        if not connection.free:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, deque()).append(connection)
        self._idle_count += 1
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_S, self._close_old)

    def close(self) -> None:
        """Close every connection, also those in use."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in (*self._in_use, *(one for idle in self._idle.values() for one in idle)):
            connection.close()
        self._idle.clear()
        self._idle_count = 0

    def _leave(self) -> None:
        self._taken -= 1
        self._places.release()

    def _reused(self, origin: Origin) -> HttpConnection | None:
        idle = self._idle.get(origin)
        while idle:
            # The one used last: the others grow old and are closed.
            connection = idle.pop()
            self._idle_count -= 1
            if connection.free:
                return connection
            connection.close()
        return None

    async def _connected(self, origin: Origin) -> HttpConnection:
        if self._taken + self._idle_count > self._connections_max:
            self._close_oldest()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s):
            socket = await start_connection(await self._addresses(origin), happy_eyeballs_delay=NEXT_ADDRESS_S)
            try:
                _, connection = await loop.create_connection(
                    HttpConnection,
                    sock=socket,
                    ssl=self._context() if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
            except BaseException:
                socket.close()
                raise
        return connection

    async def _addresses(self, origin: Origin) -> list[Any]:
        lookup = self._lookups.get(origin)
        if lookup is None:
            loop = asyncio.get_running_loop()
            lookup = self._lookups[origin] = loop.create_task(self._looked_up(origin))
        # Others may wait for it, whatever becomes of this call.
        return await asyncio.shield(lookup)

    async def _looked_up(self, origin: Origin) -> list[Any]:
        loop = asyncio.get_running_loop()
        kept_s = 0.0
        try:
            addresses = await loop.getaddrinfo(origin.host, origin.port, type=SOCK_STREAM)
            kept_s = LOOKUP_S
        finally:
            loop.call_later(kept_s, self._lookups.pop, origin, None)
        return addresses

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _close_oldest(self) -> None:
        waiting = [idle for idle in self._idle.values() if idle]
        if waiting:
            min(waiting, key=lambda idle: idle[0].idle_since).popleft().close()
            self._idle_count -= 1

    def _close_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        limit = loop.time() - IDLE_S
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since <= limit or not idle[0].free):
                idle.popleft().close()
                self._idle_count -= 1
            if not idle:
                del self._idle[origin]
        oldest = min((idle[0].idle_since for idle in self._idle.values()), default=None)
        if oldest is not None:
            self._sweep = loop.call_later(max(0.0, oldest - limit), self._close_old)
