"""A connection of the HTTP client: what counts as an answer, and when the next request may follow."""

from __future__ import annotations

import asyncio

import pytest

from fairlane.adapters.http.connection import BUFFERED_BYTES_MAX, HEAD_BYTES_MAX, Disconnected, HttpConnection, NotHttp

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.unsent = 0
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@pytest.fixture
async def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
async def connection(transport: FakeTransport) -> HttpConnection:
    connection = HttpConnection()
    connection.connection_made(transport)
    return connection


async def answer(connection: HttpConnection, *pieces: bytes) -> bytes:
    """Ask, let these pieces come, and read the whole answer."""
    connection.send(b"request")
    for piece in pieces:
        connection.data_received(piece)
    return await whole(connection)


async def whole(connection: HttpConnection) -> bytes:
    """The body of the answer that was asked for."""
    await connection.head()
    body = b""
    while part := await connection.read():
        body += part
    return body


class TestAnswers:
    async def test_status_headers_and_body_come_in_whatever_pieces(self, connection: HttpConnection) -> None:
        raw = b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbody"
        assert await answer(connection, *(raw[i : i + 1] for i in range(len(raw)))) == b"body"
        assert (connection.status, connection.headers["retry-after"]) == (429, "7")

    async def test_interim_answers_are_skipped(self, connection: HttpConnection) -> None:
        early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        assert await answer(connection, early + OK) == b"ok"
        assert connection.status == 200
        assert "link" not in connection.headers
        assert connection.free

    async def test_chunks_are_put_together(self, connection: HttpConnection) -> None:
        assert await answer(connection, CHUNKED + b"2\r\nab\r\n", b"1\r\nc\r\n0\r\n\r\n") == b"abc"
        assert connection.free

    async def test_an_answer_without_length_ends_with_its_connection(self, connection: HttpConnection) -> None:
        connection.send(b"request")
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nso far")
        connection.connection_lost(None)
        assert [await connection.read(), await connection.read()] == [b"so far", b""]
        assert not connection.free

    @pytest.mark.parametrize("piece", [b"", OK[:20], OK[:-1], CHUNKED + b"5\r\nab"])
    async def test_an_answer_that_is_cut_is_none(self, connection: HttpConnection, piece: bytes) -> None:
        connection.send(b"request")
        if piece:
            connection.data_received(piece)
        connection.connection_lost(None)
        with pytest.raises(Disconnected):
            await whole(connection)

    async def test_a_reset_does_not_end_an_answer_without_length(self, connection: HttpConnection) -> None:
        connection.send(b"request")
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.connection_lost(ConnectionResetError())
        await connection.head()
        with pytest.raises(Disconnected, match="ConnectionResetError"):
            await connection.read()

    @pytest.mark.parametrize(
        "raw",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx",
            CHUNKED + b"zz\r\n",
        ],
        ids=["another protocol", "two lengths", "different lengths", "upgrade", "no chunk"],
    )
    async def test_what_is_not_http_is_said_to_be_none_and_closed(
        self, connection: HttpConnection, transport: FakeTransport, raw: bytes
    ) -> None:
        connection.send(b"request")
        connection.data_received(raw)
        with pytest.raises(NotHttp):
            await whole(connection)
        assert transport.closed

    @pytest.mark.parametrize("line", [b"X-One: " + b"a" * 1000 + b"\r\n", b"b" * 1000], ids=["lines", "one line"])
    async def test_an_endless_head_is_refused(
        self, connection: HttpConnection, transport: FakeTransport, line: bytes
    ) -> None:
        connection.send(b"request")
        connection.data_received(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(HEAD_BYTES_MAX // len(line) + 1):
            connection.data_received(line)
        with pytest.raises(NotHttp):
            await connection.head()
        assert transport.closed


class TestReuse:
    async def test_the_next_answer_has_nothing_of_the_last(self, connection: HttpConnection) -> None:
        await answer(connection, OK.replace(b"\r\n\r\n", b"\r\nX-Once: 1\r\n\r\n"))
        assert await answer(connection, OK.replace(b"200", b"201")) == b"ok"
        assert connection.status == 201
        assert "x-once" not in connection.headers

    @pytest.mark.parametrize(
        "raw", [OK.replace(b"1.1", b"1.0"), OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")]
    )
    async def test_who_says_that_he_closes_is_asked_no_more(self, connection: HttpConnection, raw: bytes) -> None:
        assert await answer(connection, raw) == b"ok"
        assert not connection.free

    @pytest.mark.parametrize("more", [OK, b"garbage"])
    async def test_bytes_after_an_answer_spoil_the_connection_not_the_answer(
        self, connection: HttpConnection, more: bytes
    ) -> None:
        assert await answer(connection, OK + more) == b"ok"
        assert connection.status == 200
        assert not connection.free

    async def test_bytes_that_nobody_asked_for_end_it(
        self, connection: HttpConnection, transport: FakeTransport
    ) -> None:
        await answer(connection, OK)
        connection.data_received(OK)
        assert not connection.free
        assert transport.closed

    async def test_it_is_free_only_once_the_answer_is_whole(self, connection: HttpConnection) -> None:
        states = [connection.free]
        connection.send(b"request")
        for piece in (OK[:-1], OK[-1:]):
            connection.data_received(piece)
            states.append(connection.free)
        assert states == [True, False, True]

    async def test_an_answer_to_half_a_request_leaves_it_unusable(
        self, connection: HttpConnection, transport: FakeTransport
    ) -> None:
        transport.unsent = 1
        assert await answer(connection, OK) == b"ok"
        assert not connection.free

    async def test_a_closed_one_is_not_free(self, connection: HttpConnection) -> None:
        await answer(connection, OK)
        connection.connection_lost(None)
        assert not connection.free


async def test_a_body_that_nobody_reads_makes_the_other_side_wait(
    connection: HttpConnection, transport: FakeTransport
) -> None:
    connection.send(b"request")
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    while transport.reading:
        connection.data_received(b"x" * 65_536)
    assert len(await connection.read()) <= BUFFERED_BYTES_MAX + 65_536
    assert transport.reading


async def test_who_waits_is_woken_by_what_comes(connection: HttpConnection) -> None:
    connection.send(b"request")
    waiting = asyncio.create_task(connection.head())
    await asyncio.sleep(0)
    assert not waiting.done()
    connection.data_received(OK)
    await waiting
    assert connection.status == 200


async def test_an_answer_too_long_to_be_buffered_and_never_read_leaves_it_unusable(
    connection: HttpConnection, transport: FakeTransport
) -> None:
    connection.send(b"request")
    body = b"x" * (BUFFERED_BYTES_MAX + 1)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert not transport.reading
    assert not connection.free, "the next answer would never be read"
    await whole(connection)
    assert transport.reading


async def test_a_request_is_sent_as_it_is(connection: HttpConnection, transport: FakeTransport) -> None:
    connection.send(b"POST / HTTP/1.1\r\n\r\n")
    assert transport.sent == [b"POST / HTTP/1.1\r\n\r\n"]
