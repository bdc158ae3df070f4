"""One connection of the simulator's HTTP/1.1 server: a request, its answer, then the next. httptools (llhttp) parses.

The simulator shares its machine with the chain that is measured against it, so a call must cost little (ADR 0015).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from fairlane.telemetry import get_logger

_log = get_logger(__name__)

HEAD_BYTES_MAX = 65_536
"""Of a request line and headers."""
DUE_MAX = 100
"""Requests of a connection that wait for the one before them. Reading goes on, or nobody would notice that the caller
has left; so who sends more is cut off."""
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Call:
    """One request, and the way to answer it: :meth:`answer`, or :meth:`begin`, :meth:`write` and :meth:`end`."""

    def __init__(self, connection: HttpConnection, body_bytes_max: int) -> None:
        self._connection = connection
        self._body_bytes_max = body_bytes_max
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._chunked = False
        self.method = ""
        self.target = b""
        self.headers: dict[str, str] = {}
        """By name in small letters."""
        self.keep_alive = False
        self.ended = False
        """Whether the answer is whole."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def too_large(self) -> bool:
        """Whether the body was larger than is taken; then it was dropped."""
        return self._bytes > self._body_bytes_max

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self._pieces)

    def add(self, content: bytes) -> None:
        """Take a piece of the body."""
        self._bytes += len(content)
        if self.too_large:
            self._pieces.clear()
        else:
            self._pieces.append(content)

    def answer(self, status: int, content_type: str, content: bytes, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Send a whole answer. Raises ConnectionResetError where the caller has gone."""
        self.ended = True
        head = self._head(status, content_type, (*headers, ("Content-Length", str(len(content)))))
        self._connection.send(head if self.method == "HEAD" else head + content)

    def begin(
        self, status: int, content_type: str, headers: Sequence[tuple[str, str]] = (), length: int | None = None
    ) -> None:
        """Send the head of an answer whose body follows, in chunks where its length is not known."""
        self._chunked = length is None
        framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        self._connection.send(self._head(status, content_type, (*headers, framing)))

    async def write(self, content: bytes) -> None:
        """Send some of the body; waits while the caller takes nothing. Raises ConnectionResetError if it has gone."""
        self._connection.send(b"%x\r\n%b\r\n" % (len(content), content) if self._chunked else content)
        await self._connection.drain()

    def end(self) -> None:
        """The body is whole."""
        self.ended = True
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """Close the connection once what was written is sent."""
        self._connection.close()

    def _head(self, status: int, content_type: str, headers: Sequence[tuple[str, str]]) -> bytes:
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}", f"Content-Type: {content_type}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if not self.keep_alive:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


Handler = Callable[[Call], Awaitable[None]]


class HttpConnection(asyncio.Protocol):
    """Hands each request to ``handler``, one at a time; a caller that leaves cancels its own.

    ``connections`` holds it from when it stands until it is lost.
    """

    def __init__(self, handler: Handler, body_bytes_max: int, connections: set[HttpConnection]) -> None:
        self._handler = handler
        self._body_bytes_max = body_bytes_max
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._call = Call(self, body_bytes_max)
        self._in_head = True
        self._head_bytes = 0
        self._due: deque[Call] = deque()
        self._serving: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._room: asyncio.Future[None] | None = None

    def send(self, content: bytes) -> None:
        """Write. Raises ConnectionResetError where the connection is gone."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the caller has gone")
        self._transport.write(content)

    async def drain(self) -> None:
        """Wait until the caller has taken most of what was written."""
        if self._room is not None:
            await self._room

    def close(self) -> None:
        """Close it once what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it now."""
        if self._transport is not None:
            self._transport.abort()

    async def _serve(self) -> None:
        while self._due:
            call = self._due[0]
            try:
                await self._handler(call)
            except ConnectionResetError:
                return
            except Exception:  # noqa: BLE001 - one call must not end the server; the log has the traceback
                _log.exception("simulator_call_failed", path=call.path)
            if not call.ended or not call.keep_alive:
                self.close()
                return
            self._due.popleft()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request came."""
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # RFC 9110 section 7.8: a server may ignore the wish. The parser reads no further, though.
            self._due[-1].keep_alive = False
        except HttpParserError:
            self._refuse(400)
        else:
            if self._in_head and self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(431)

    def _refuse(self, status: int) -> None:
        """What came is no request. Calls before it may still be answered, so a busy connection just ends."""
        if self._transport is not None and not self._transport.is_closing():
            if not self._due:
                Call(self, 0).answer(status, "text/plain", b"this is no HTTP request\n")
            self.close()

    def pause_writing(self) -> None:
        """The caller takes less than is written."""
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._wake()

    def connection_lost(self, reason: Exception | None) -> None:
        """The connection is gone."""
        self._connections.discard(self)
        self._wake()
        if self._serving is not None:
            # A model that hangs would keep the calls of clients that left long ago.
            self._serving.cancel()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    # What the parser calls

    def on_url(self, part: bytes) -> None:
        """Some of the target."""
        self._call.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        self._call.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        call = self._call
        call.method = self._parser.get_method().decode("latin-1")
        if call.headers.get("expect", "").lower() == "100-continue" and not self._due and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, content: bytes) -> None:
        """Some of the body."""
        self._call.add(content)

    def on_message_complete(self) -> None:
        """A request is whole."""
        call, self._call = self._call, Call(self, self._body_bytes_max)
        self._in_head, self._head_bytes = True, 0
        call.keep_alive = self._parser.should_keep_alive()
        self._due.append(call)
        if len(self._due) > DUE_MAX:
            self.close()
        elif self._serving is None or self._serving.done():
            self._serving = self._loop.create_task(self._serve())
