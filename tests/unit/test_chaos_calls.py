"""Calls a request in `make chaos`: those of the provider, and those answered on the way to it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Self

import pytest

from tests.chaos import faulty_link
from tests.chaos.chaos_stack import ChaosStack
from tests.chaos.faulty_link import SOUND, FaultyLink, Trouble, _Connection


class Writer:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        return None


async def _requested(link: FaultyLink, request: bytes) -> tuple[bytes, bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(request)
    reader.feed_eof()
    client, service = Writer(), Writer()
    await link._requests(reader, _Connection(client, service))  # type: ignore[arg-type]
    return client.written, service.written


def test_requests_answered_at_the_link_are_counted_there_for_the_service_never_sees_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faulty_link, "free_port", lambda: 1)

    async def played() -> tuple[int, int]:
        link = FaultyLink("127.0.0.1:1")
        await link.set(Trouble(answer=b"no"))
        assert await _requested(link, b"POST /") == (b"no", b"")
        refused = link.answered
        await link.set(SOUND)
        assert await _requested(link, b"POST /") == (b"", b"POST /")
        return refused, link.answered

    assert asyncio.run(played()) == (1, 1)


def test_the_calls_of_a_row_are_those_of_the_provider_and_those_answered_on_the_way_to_it() -> None:
    class Answer:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_failure: object) -> None:
            return None

        async def json(self) -> dict[str, int]:
            return {"calls": 5}

    stack: Any = SimpleNamespace(
        settings=SimpleNamespace(simulator_url="http://sim/v1"), http=SimpleNamespace(get=lambda _url: Answer()),
        links={"provider": SimpleNamespace(answered=3)},
    )  # fmt: skip
    assert asyncio.run(ChaosStack.provider_calls(stack)) == 8
