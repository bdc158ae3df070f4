"""A TCP proxy between the stages and a service, which can be made slow, refuse, lose answers or answer wrongly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fairlane.devstack.port_choice import HOST, free_port

CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a link. The default: nothing."""

    delay_s: float = 0.0
    """Each answer comes so much later; answers that follow each other overlap, as on a long line."""
    refuse: bool = False
    """Connections are cut and no new one is taken."""
    lose_answer_to: bytes = b""
    """What is asked with this text reaches the service; its answer does not come, the connection is cut."""
    hang: bool = False
    """Bytes are taken and nothing comes of them."""
    answer: bytes = b""
    """Said to every request instead of passing it on; then the connection is closed."""
    drip_s: float = 0.0
    """Answers come one byte at a time, with so much between two."""


SOUND = Trouble()


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    service: asyncio.StreamWriter
    marked: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def cut(self) -> None:
        for writer in (self.client, self.service):
            writer.transport.abort()


class FaultyLink:
    """Listens on :attr:`address` and passes everything on, but for the trouble of the moment."""

    def __init__(self, target: str) -> None:
        """``target``: ``host:port``."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._port = free_port()
        self._server: asyncio.Server | None = None
        self._trouble = SOUND
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self.disturbed = 0
        """How often a trouble was felt. A fault nobody felt has tested nothing."""
        self.answered = 0
        """Requests that were answered here and so never came to the service, which cannot have counted them."""

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self._port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self._port)

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = [task for connection in self._connections for task in connection.tasks]
        for connection in list(self._connections):
            connection.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def set(self, trouble: Trouble) -> None:
        """Begin another trouble, or :data:`SOUND`."""
        before, self._trouble = self._trouble, trouble
        self._changed.set()
        self._changed = asyncio.Event()
        if trouble.refuse and not before.refuse:
            if self._server is not None:
                self._server.close()
                self._server = None
            self.disturbed += len(self._connections)
            for connection in list(self._connections):
                connection.cut()
        elif before.refuse and not trouble.refuse:
            await self.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, service = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, service)
        self._connections.add(connection)
        connection.tasks = [
            asyncio.create_task(self._requests(reader, connection)),
            asyncio.create_task(self._answers(upstream, connection)),
        ]
        await asyncio.wait(connection.tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in connection.tasks:
            task.cancel()
        await asyncio.gather(*connection.tasks, return_exceptions=True)
        for end in (writer, service):
            end.close()
        self._connections.discard(connection)

    async def _while_hanging(self) -> None:
        if self._trouble.hang:
            self.disturbed += 1
        while self._trouble.hang:
            await self._changed.wait()

    async def _requests(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        with _ends_quietly():
            while data := await reader.read(CHUNK_BYTES):
                await self._while_hanging()
                trouble = self._trouble
                if trouble.answer:
                    self.disturbed += 1
                    self.answered += 1
                    connection.client.write(trouble.answer)
                    await connection.client.drain()
                    return
                connection.marked |= bool(trouble.lose_answer_to) and trouble.lose_answer_to in data
                connection.service.write(data)
                await connection.service.drain()

    async def _answers(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                at, data = await due.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                if not data:
                    return
                await self._deliver(data, connection)

        delivering = asyncio.create_task(deliver())
        latest = 0.0
        try:
            with _ends_quietly():
                while True:
                    data = await reader.read(CHUNK_BYTES)
                    await self._while_hanging()
                    if self._trouble.lose_answer_to and connection.marked:
                        self.disturbed += 1
                        connection.cut()
                        return
                    connection.marked = False
                    self.disturbed += bool(self._trouble.delay_s and data)
                    latest = max(latest, loop.time() + self._trouble.delay_s)
                    due.put_nowait((latest, data))
                    if not data:
                        await delivering
                        return
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _deliver(self, data: bytes, connection: _Connection) -> None:
        at = 0
        while at < len(data):
            drip_s = self._trouble.drip_s
            piece = data[at : at + 1] if drip_s else data[at:]
            connection.client.write(piece)
            await connection.client.drain()
            at += len(piece)
            if drip_s:
                self.disturbed += 1
                await asyncio.sleep(drip_s)


@contextmanager
def _ends_quietly() -> Iterator[None]:
    """A connection that breaks is what this proxy is for."""
    with contextlib.suppress(ConnectionError, OSError):
        yield
