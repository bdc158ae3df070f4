"""A provider that answers with given bytes, for what no well-behaved server would send."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class ProviderDouble:
    """Answers each POST with ``reply``; keeps what it was sent. ``after`` says what becomes of the connection."""

    reply: bytes = b""
    close_after: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self) -> str:
        """Listen on a free port; returns the base URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        """Cut every connection and stop listening."""
        if self._server is None:
            return
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
                self.requests.append(head + await reader.readexactly(length))
                writer.write(self.reply)
                await writer.drain()
                if self.close_after:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def http(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """A whole HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sse(*events: bytes, content_length: bool = True) -> bytes:
    """A whole answer of server-sent events; without a length it ends with the connection."""
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    answer = http(body, content_type="text/event-stream")
    return answer if content_length else answer.replace(f"Content-Length: {len(body)}\r\n".encode(), b"")
