"""The proxy of `make chaos`: each trouble does to a connection what it says, and is gone when it is mended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from fairlane.devstack.port_choice import HOST, free_port
from tests.chaos.faulty_link import SOUND, FaultyLink, Trouble


@pytest.fixture
async def heard() -> list[bytes]:
    return []


@pytest.fixture
async def link(heard: list[bytes]) -> AsyncIterator[FaultyLink]:
    """A link to a server that answers each line with itself."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            heard.append(line)
            writer.write(line)
            await writer.drain()
        writer.close()

    port = free_port()
    server = await asyncio.start_server(echo, HOST, port)
    link = FaultyLink(f"{HOST}:{port}")
    await link.start()
    yield link
    await link.stop()
    server.close()


async def connect(link: FaultyLink) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = link.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def ask(link: FaultyLink, line: bytes = b"hello\n") -> bytes:
    """The answer, empty where the connection is cut."""
    reader, writer = await connect(link)
    try:
        writer.write(line)
        await writer.drain()
        async with asyncio.timeout(5):
            return await reader.readline()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, in whatever way."""
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""


async def test_a_sound_link_passes_everything_on(link: FaultyLink) -> None:
    assert await ask(link) == b"hello\n"
    assert link.disturbed == 0


async def test_a_slow_link_delays_answers_that_follow_each_other_only_once(link: FaultyLink) -> None:
    await link.set(Trouble(delay_s=0.3))
    reader, writer = await connect(link)
    began = time.monotonic()
    for _ in range(5):
        writer.write(b"hello\n")
        await asyncio.sleep(0.01)
    for _ in range(5):
        assert await reader.readline() == b"hello\n"
    assert 0.3 <= time.monotonic() - began < 1.0
    writer.transport.abort()
    assert link.disturbed > 0


async def test_a_refusing_link_cuts_and_takes_nobody_until_it_is_mended(link: FaultyLink) -> None:
    reader, writer = await connect(link)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    await link.set(Trouble(refuse=True))
    with pytest.raises(ConnectionRefusedError):
        await ask(link)
    assert await rest(reader) == b""
    writer.transport.abort()
    await link.set(SOUND)
    assert await ask(link) == b"hello\n"


async def test_a_lost_answer_was_heard_by_the_service(link: FaultyLink, heard: list[bytes]) -> None:
    await link.set(Trouble(lose_answer_to=b"INSERT"))
    assert await ask(link, b"INSERT one\n") == b""
    assert heard == [b"INSERT one\n"]
    assert await ask(link, b"SELECT one\n") == b"SELECT one\n"
    assert link.disturbed == 1


async def test_a_hanging_link_says_nothing_until_it_is_mended(link: FaultyLink) -> None:
    await link.set(Trouble(hang=True))
    asking = asyncio.create_task(ask(link))
    done, _ = await asyncio.wait([asking], timeout=0.3)
    assert not done
    await link.set(SOUND)
    assert await asking == b"hello\n"


async def test_a_link_can_answer_in_place_of_the_service(link: FaultyLink, heard: list[bytes]) -> None:
    await link.set(Trouble(answer=b"no\n"))
    assert await ask(link) == b"no\n"
    assert heard == []


async def test_a_dripping_link_gives_one_byte_at_a_time(link: FaultyLink) -> None:
    await link.set(Trouble(drip_s=0.05))
    began = time.monotonic()
    assert await ask(link) == b"hello\n"
    assert time.monotonic() - began >= 0.25
