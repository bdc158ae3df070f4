"""One connection of an HTTP/1.1 client: a request, its answer, and then perhaps the next. httptools (llhttp) parses."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict

HEAD_BYTES_MAX = 65_536
"""Of an answer's status line and headers. What is longer is no answer; aiohttp and nginx stop at 8 to 64 KB as well."""
BUFFERED_BYTES_MAX = 262_144
"""Of a body that nobody reads; then the other side has to wait."""
_INTERIM_MAX = 199


class NotHttp(Exception):
    """Raised where what came is no answer of HTTP/1.1, or one with a head that is too large."""


class Disconnected(Exception):
    """Raised where the connection ended before the answer did."""


class HttpConnection(asyncio.Protocol):
    """Call :meth:`send`, wait for :meth:`head`, :meth:`read` until it is empty; reusable if :attr:`free` then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._parser = HttpResponseParser(self)
        self._asked = False
        self.idle_since = 0.0
        """When it was put aside, in seconds of the loop's clock; for who keeps it."""
        self._begin()

    def _begin(self) -> None:
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._framed = False
        self._head_done = False
        self._complete = False
        self._keep = False
        self._body: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self.status = 0

    @property
    def free(self) -> bool:
        """Whether the next request can be sent: the answer is whole, and neither side wants the end."""
        transport = self._transport
        return (
            self._failure is None
            and not self._paused
            and ((self._complete and self._keep) or not self._asked)
            and transport is not None
            and not transport.is_closing()
            # A server may answer before it has read the request; the rest would go before the next one.
            and transport.get_write_buffer_size() == 0
        )

    @property
    def headers(self) -> CIMultiDict[str]:
        """Of the answer, by name in any case."""
        return CIMultiDict(self._headers)

    def send(self, request: bytes) -> None:
        """Send a whole request. Only while :attr:`free`."""
        if self._asked:
            self._begin()
        self._asked = True
        if self._transport is not None:
            self._transport.write(request)

    async def head(self) -> None:
        """Wait for the status and headers. Raises :class:`NotHttp` or :class:`Disconnected`."""
        while not self._head_done:
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; empty at its end. Raises as :meth:`head` does."""
        while not self._body:
            if self._complete:
                return b""
            await self._wait()
        content = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return content

    def close(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
        self.close()
        self._wake()

    def _spoiled(self, failure: Exception) -> None:
        if self._complete:
            # What follows a whole answer only spoils the connection.
            self._keep = False
        else:
            self._fail(failure)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Some bytes of the answer came."""
        if not self._asked or self._complete:
            self._fail(NotHttp("bytes that nobody asked for"))
            return
        if not self._head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as failure:
            self._spoiled(NotHttp(str(failure)))
        if not self._head_done and self._head_bytes > HEAD_BYTES_MAX:
            self._fail(NotHttp("its head is too large"))
            return
        if self._buffered > BUFFERED_BYTES_MAX and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, reason: Exception | None) -> None:
        """The connection is gone."""
        if self._head_done and not self._framed and reason is None:
            # RFC 9112 section 6.3: without a length the answer ends with the connection.
            self._complete = True
        if self._failure is None:
            self._failure = Disconnected(type(reason).__name__ if reason is not None else "closed")
        self._wake()

    # What the parser calls

    def on_message_begin(self) -> None:
        """An answer begins: the one asked for, an interim one before it, or one that nobody asked for."""
        if self._complete:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        if self._complete:
            return
        text = name.decode("latin-1")
        self._headers.append((text, value.decode("latin-1")))
        if text.lower() in {"content-length", "transfer-encoding"}:
            self._framed = True

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self._complete:
            return
        status = self._parser.get_status_code()
        if status <= _INTERIM_MAX:
            # RFC 9110 section 15.2: any number of interim answers may come before the one that counts.
            self._headers.clear()
            self._framed = False
            return
        self.status = status
        self._head_done = True

    def on_body(self, content: bytes) -> None:
        """Some bytes of the body."""
        if self._complete:
            return
        self._body.append(content)
        self._buffered += len(content)

    def on_message_complete(self) -> None:
        """An answer is whole."""
        if self._head_done and not self._complete:
            self._complete = True
            self._keep = self._parser.should_keep_alive()
