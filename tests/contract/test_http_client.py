"""The HTTP client of the lean provider adapter on real sockets: which connections it keeps, and TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlane.adapters.chat_provider import ConnectionFailed, HttpCall
from fairlane.adapters.http import pool as pool_module
from fairlane.adapters.http.pool import HttpPool, Origin
from fairlane.adapters.openai_compatible import HttpTransport
from fairlane.adapters.openai_sdk_transport import OpenAISdkTransport
from tests.contract.provider_double import ProviderDouble, http

TLS = Path(__file__).parent / "tls"
OK = http(b"{}")


def call(address: str, **headers: str) -> HttpCall:
    return HttpCall(address, {"model": "m"}, stream=False, key=None, headers=headers)


async def ask(transport: HttpTransport, address: str, **headers: str) -> bytes:
    async with transport.send(call(address, **headers)) as answer:
        body = b""
        while part := await answer.read():
            body += part
        return body


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.close()


@pytest.fixture
async def double() -> AsyncIterator[ProviderDouble]:
    double = ProviderDouble(reply=OK)
    yield double
    await double.stop()


async def closed_by_client(double: ProviderDouble) -> None:
    """Wait until the provider has no connection left."""
    while any(not writer.is_closing() for writer in double._writers):  # noqa: ASYNC110 - the double tells nobody
        await asyncio.sleep(0.001)


class TestPool:
    async def test_calls_one_after_the_other_share_a_connection(
        self, transport: HttpTransport, double: ProviderDouble
    ) -> None:
        address = await double.start()
        for _ in range(3):
            assert await ask(transport, address) == b"{}"
        assert (double.connections, len(double.requests)) == (1, 3)

    async def test_calls_at_once_have_one_each_and_no_more_than_allowed(self, double: ProviderDouble) -> None:
        transport = HttpTransport(connections_max=2)
        address = await double.start()
        await asyncio.gather(*(ask(transport, address) for _ in range(10)))
        assert (double.connections, len(double.requests)) == (2, 10)
        await transport.close()

    async def test_the_openai_package_keeps_to_its_connections_too(self, double: ProviderDouble) -> None:
        double.reply = http(b'{"choices":[]}')
        transport = OpenAISdkTransport(2)
        address = await double.start()

        async def asked() -> None:
            body = {"model": "m", "messages": []}
            async with transport.send(HttpCall(address, body, stream=False, key=None, headers={})) as answer:
                while await answer.read():
                    pass

        await asyncio.gather(*(asked() for _ in range(10)))
        assert (double.connections, len(double.requests)) == (2, 10)
        await transport.close()

    async def test_one_address_makes_room_for_another(self, double: ProviderDouble) -> None:
        transport = HttpTransport(connections_max=1)
        other = ProviderDouble(reply=OK)
        for address in (await double.start(), await other.start()):
            await ask(transport, address)
        await asyncio.wait_for(closed_by_client(double), 30)
        await transport.close()
        await other.stop()

    async def test_a_connection_that_the_provider_closed_is_not_used_again(
        self, transport: HttpTransport, double: ProviderDouble
    ) -> None:
        double.close_after = True
        address = await double.start()
        for _ in range(3):
            await ask(transport, address)
            await asyncio.wait_for(closed_by_client(double), 30)
        assert double.connections == 3

    async def test_an_idle_connection_is_closed(self, double: ProviderDouble, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool_module, "IDLE_S", 0.01)
        transport = HttpTransport()
        await ask(transport, await double.start())
        await asyncio.wait_for(closed_by_client(double), 30)
        await transport.close()

    async def test_a_call_that_is_given_up_frees_its_place(self, double: ProviderDouble) -> None:
        pool = HttpPool(1, 10.0)
        host, port = (await double.start()).removeprefix("http://").removesuffix("/v1").split(":")
        origin = Origin(host, int(port), tls=False)
        held = await pool.take(origin)
        waiting = asyncio.create_task(pool.take(origin))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        pool.give(origin, held)
        assert await asyncio.wait_for(pool.take(origin), 30) is held
        pool.close()

    async def test_a_failed_connect_frees_its_place_and_is_tried_anew(self, double: ProviderDouble) -> None:
        transport = HttpTransport(connections_max=1)
        address = await double.start()
        await double.stop()
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="could not be reached"):
                await ask(transport, address)
        await transport.close()


class TestRequests:
    async def test_credentials_in_the_address_are_sent_and_not_part_of_the_host(
        self, transport: HttpTransport, double: ProviderDouble
    ) -> None:
        address = (await double.start()).replace("http://", "http://me:pass@")
        await ask(transport, address)
        sent = double.requests[0]
        assert b"\r\nAuthorization: Basic bWU6cGFzcw==\r\n" in sent
        assert b"\r\nHost: 127.0.0.1:" in sent

    async def test_a_header_cannot_be_smuggled_in(self, transport: HttpTransport, double: ProviderDouble) -> None:
        with pytest.raises(ValueError, match="control character"):
            await ask(transport, await double.start(), trace="x\r\nX-Evil: 1")
        assert double.requests == []

    async def test_a_name_that_cannot_be_found_is_said(self, transport: HttpTransport) -> None:
        with pytest.raises(ConnectionFailed, match="could not be reached"):
            await ask(transport, "http://no-such-host.invalid/v1")


class TestTls:
    @pytest.fixture
    async def secure(self) -> AsyncIterator[str]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "localhost.pem", TLS / "localhost.key")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
                await writer.drain()
                await reader.read()
            except (asyncio.IncompleteReadError, OSError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
        server.close()

    async def test_a_provider_with_a_trusted_certificate_is_called(
        self, transport: HttpTransport, secure: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "localhost.pem"))
        assert await ask(transport, secure) == b"{}"

    async def test_one_that_nobody_vouches_for_is_not(self, transport: HttpTransport, secure: str) -> None:
        with pytest.raises(ConnectionFailed, match="SSLCertVerificationError"):
            await ask(transport, secure)

    async def test_neither_is_one_for_another_host(
        self, transport: HttpTransport, secure: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "localhost.pem"))
        with pytest.raises(ConnectionFailed, match="SSLCertVerificationError"):
            await ask(transport, secure.replace("localhost", "127.0.0.1"))
