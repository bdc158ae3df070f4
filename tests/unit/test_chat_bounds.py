"""What a provider may send is bounded, whoever it is: its answer, its failure's text, its id of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fairlane.adapters.chat_provider import ChatProvider, HttpCall
from fairlane.adapters.openai_sdk_transport import OpenAISdkTransport
from fairlane.clock import ManualClock
from fairlane.ports import Call, ProviderError
from fairlane.schemas.errors import ErrorCode

KIB = 1024
CALL = Call("http://p/v1", None, {"model": "m", "messages": []}, 60.0, "acme/r-1", None)


@dataclass
class EndlessAnswer:
    """Gives pieces for as long as it is asked; ``received`` counts the bytes that somebody took."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    piece: bytes = b" " * KIB
    received: int = 0

    async def read(self) -> bytes:
        self.received += len(self.piece)
        return self.piece


@dataclass
class OneAnswer:
    """A transport that has this answer for every call."""

    answer: EndlessAnswer

    @asynccontextmanager
    async def send(self, _: HttpCall) -> AsyncIterator[EndlessAnswer]:
        yield self.answer

    async def close(self) -> None:
        return None


async def failure_of(answer: EndlessAnswer, *, stream: bool = False) -> ProviderError:
    provider = ChatProvider(OneAnswer(answer), ManualClock(0))

    async def served() -> None:
        async with asyncio.timeout(10):
            if not stream:
                await provider.complete(CALL)
            else:
                async for _ in provider.stream(CALL):
                    pass

    with pytest.raises(ProviderError) as raised:
        await served()
    return raised.value


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_an_answer_without_end_fails_its_call_at_the_bound(stream: bool) -> None:
    answer = EndlessAnswer(piece=b" " * KIB * KIB)
    failure = await failure_of(answer, stream=stream)
    assert failure.detail.code is ErrorCode.INVALID_RESPONSE
    assert "larger than" in failure.detail.message
    assert answer.received == 17 * KIB * KIB


async def test_of_a_failure_without_end_only_as_much_is_read_as_its_code_needs() -> None:
    answer = EndlessAnswer(status=500)
    assert (await failure_of(answer)).detail.code is ErrorCode.PROVIDER_UNAVAILABLE
    assert answer.received == 64 * KIB


async def test_a_providers_id_of_a_call_is_cut_to_what_a_record_should_hold() -> None:
    failure = await failure_of(EndlessAnswer(status=500, headers={"x-request-id": "p" * 10_000}))
    assert failure.provider_request_id == "p" * 128


async def test_clients_of_addresses_that_a_catalog_named_once_are_not_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fairlane.adapters.openai_sdk_transport.ADDRESSES_MAX", 2)
    transport = OpenAISdkTransport(4)
    client: Callable[[str], object] = transport._client
    try:
        kept = [client(f"http://p{number}/v1") for number in range(3)]
        assert client("http://p2/v1") is kept[2]
        assert client("http://p1/v1") is kept[1]
        assert client("http://p0/v1") is not kept[0], "the oldest had to go"
    finally:
        await transport.close()
