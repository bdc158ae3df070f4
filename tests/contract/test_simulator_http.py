"""The simulator's HTTP, byte by byte: what clients of any kind send, and what none should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from httptools import HttpResponseParser

from fairlane.adapters.simulator.http_connection import DUE_MAX, HEAD_BYTES_MAX
from fairlane.adapters.simulator.server import MAX_BODY_BYTES, Simulator

BODY = b'{"model":"sim-instant","messages":[{"role":"user","content":"Hello"}]}'
HANGING = BODY.replace(b"instant", b"hang")


class Answer:
    """An answer as a parser reads it."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.status = 0
        self.complete = False
        self.keep_alive = False
        self.parser = HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, content: bytes) -> None:
        self.body += content

    def on_message_complete(self) -> None:
        self.complete = True
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()


class Client:
    """A connection that sends what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, content: bytes) -> None:
        self.writer.write(content)

    async def answer(self) -> Answer:
        """The next answer, read a byte at a time so that nothing of the one after it is lost."""
        answer = Answer()
        async with asyncio.timeout(10):
            while not answer.complete:
                byte = await self.reader.read(1)
                assert byte, f"the connection ended in the middle of an answer: {answer.body!r}"
                answer.parser.feed_data(byte)
        return answer

    async def rest(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()


Connect = Callable[[], Awaitable[Client]]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(time_scale=0)
    yield simulator
    await simulator.stop()


@pytest.fixture
async def connect(simulator: Simulator) -> AsyncIterator[Connect]:
    port = int((await simulator.start()).removesuffix("/v1").rpartition(":")[2])
    opened: list[Client] = []

    async def connect() -> Client:
        opened.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
        return opened[-1]

    yield connect
    for client in opened:
        client.writer.close()


def chat(body: bytes = BODY, *headers: bytes) -> bytes:
    return request(b"POST", b"/v1/chat/completions", body, *headers)


def request(method: bytes, target: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def calls_in_flight(simulator: Simulator, count: int) -> None:
    async with asyncio.timeout(10):
        while simulator.counts()["in_flight"] != count:  # noqa: ASYNC110 - counts have no event to wait for
            await asyncio.sleep(0.001)


async def test_a_connection_serves_one_call_after_another(connect: Connect) -> None:
    client = await connect()
    for _ in range(3):
        client.send(chat())
        answer = await client.answer()
        assert (answer.status, answer.keep_alive) == (200, True)
        assert answer.headers[b"content-type"] == b"application/json"


async def test_calls_sent_without_waiting_are_answered_in_their_order(connect: Connect) -> None:
    client = await connect()
    client.send(chat() + request(b"GET", b"/healthz") + chat(b"{}") + request(b"GET", b"/v1/models"))
    assert [(await client.answer()).status for _ in range(4)] == [200, 200, 400, 200]
    client.send(request(b"GET", b"/healthz"))
    assert (await client.answer()).body == b"ok\n"


async def test_a_request_may_come_byte_by_byte_and_in_chunks(connect: Connect) -> None:
    client = await connect()
    chunked = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (9, BODY[:9], len(BODY) - 9, BODY[9:])
    head = b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for byte in head + chunked:
        client.send(bytes([byte]))
        await client.writer.drain()
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("version", [b"HTTP/1.1\r\nConnection: close", b"HTTP/1.0"])
async def test_the_connection_ends_where_the_client_wants_no_other_call(connect: Connect, version: bytes) -> None:
    client = await connect()
    client.send(b"GET /healthz " + version + b"\r\nHost: x\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.keep_alive) == (200, False)
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [(b"GET", b"/v1/nothing", 404), (b"GET", b"/v1/chat/completions", 405), (b"POST", b"/healthz", 405)],
)
async def test_unknown_paths_and_methods_are_refused_in_the_form_of_the_api(
    connect: Connect, method: bytes, target: bytes, status: int
) -> None:
    client = await connect()
    client.send(request(method, target))
    answer = await client.answer()
    assert answer.status == status
    assert answer.body.startswith(b'{"error":')


async def test_head_has_no_body(connect: Connect) -> None:
    client = await connect()
    client.send(request(b"HEAD", b"/healthz", b"", b"Connection: close"))
    assert (await client.rest()).endswith(b"\r\n\r\n")


async def test_who_asks_before_sending_a_body_is_told_to_go_on(connect: Connect) -> None:
    client = await connect()
    whole = chat(BODY, b"Expect: 100-continue")
    client.send(whole[: -len(BODY)])
    async with asyncio.timeout(10):
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(BODY)
    assert (await client.answer()).status == 200


async def test_a_wish_for_another_protocol_is_ignored(connect: Connect) -> None:
    client = await connect()
    client.send(request(b"GET", b"/healthz", b"", b"Connection: Upgrade", b"Upgrade: h2c"))
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400),
        (b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2 * HEAD_BYTES_MAX, 431),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_ends(
    connect: Connect, content: bytes, status: int
) -> None:
    client = await connect()
    client.send(content)
    answer = await client.answer()
    assert (answer.status, answer.keep_alive) == (status, False)


async def test_a_body_that_is_too_large_is_refused_and_not_kept(connect: Connect) -> None:
    client = await connect()
    client.send(chat(b" " * (MAX_BODY_BYTES + 1)))
    assert (await client.answer()).status == 413
    client.send(chat())
    assert (await client.answer()).status == 200


async def test_an_answer_waits_for_a_client_that_does_not_read(simulator: Simulator, connect: Connect) -> None:
    client = await connect()
    client.send(chat(BODY.replace(b"instant", b"huge")))
    await client.reader.readuntil(b"\r\n\r\n")
    # 64 MiB do not fit between the two, so the call is still there.
    await calls_in_flight(simulator, 1)
    received = b""
    size = 0
    async with asyncio.timeout(30):
        while not received.endswith(b"0\r\n\r\n"):
            received = await client.reader.read(1 << 20)
            size += len(received)
    await calls_in_flight(simulator, 0)
    assert size > 64 * 2**20
    assert simulator.counts()["calls_by_status"] == {"200": 1}


async def test_a_client_that_leaves_ends_its_call_and_those_behind_it(simulator: Simulator, connect: Connect) -> None:
    client = await connect()
    client.send(chat(HANGING) + chat())
    await calls_in_flight(simulator, 1)
    client.writer.close()
    await calls_in_flight(simulator, 0)
    assert simulator.counts()["calls_by_status"] == {"0": 1}


async def test_who_sends_far_more_than_is_answered_is_cut_off(simulator: Simulator, connect: Connect) -> None:
    client = await connect()
    client.send(chat(HANGING) + chat() * (DUE_MAX + 1))
    assert await client.rest() == b""
    await calls_in_flight(simulator, 0)


async def test_stopping_cuts_calls_in_flight(simulator: Simulator, connect: Connect) -> None:
    client = await connect()
    client.send(chat(HANGING))
    await calls_in_flight(simulator, 1)
    await simulator.stop()
    assert await client.rest() == b""
    await calls_in_flight(simulator, 0)


async def test_a_failure_of_ours_ends_its_connection_and_no_other(
    monkeypatch: pytest.MonkeyPatch, simulator: Simulator, connect: Connect
) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(simulator, "counts", fail)
    broken, well = await connect(), await connect()
    broken.send(request(b"GET", b"/stats"))
    assert await broken.rest() == b""
    well.send(chat())
    assert (await well.answer()).status == 200
