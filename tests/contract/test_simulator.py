"""The simulator as its clients see it: the official ``openai`` package, and plain HTTP for what that hides."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from fairlane.adapters.simulator.server import Simulator

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
SEVEN = {"sim_output_tokens": "7"}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(time_scale=0)
    yield simulator
    await simulator.stop()


@pytest.fixture
async def address(simulator: Simulator) -> str:
    return await simulator.start()


@pytest.fixture
async def client(address: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=address, api_key="any", max_retries=0) as client:
        yield client


async def post(address: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{address}/chat/completions", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_the_async_client_gets_an_answer_whose_usage_is_what_was_said(client: openai.AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="sim-small", messages=MESSAGES, metadata=SEVEN)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content is not None
    assert completion.usage is not None
    assert completion.usage.completion_tokens == len(completion.choices[0].message.content.split()) == 7
    assert completion.usage.prompt_tokens == 3


async def test_the_sync_client_gets_the_same(address: str) -> None:
    def ask() -> ChatCompletion:
        with openai.OpenAI(base_url=address, api_key="any", max_retries=0) as client:
            return client.chat.completions.create(model="sim-instant", messages=MESSAGES, max_tokens=2, metadata=SEVEN)

    completion = await asyncio.to_thread(ask)
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].message.content == "the quick"


async def test_a_stream_says_the_same_words_and_ends_with_its_usage(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(model="sim-small", messages=MESSAGES, metadata=SEVEN, n=2)
    stream = await client.chat.completions.create(
        model="sim-small", messages=MESSAGES, metadata=SEVEN, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    for index in range(2):
        said = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(said) == whole.choices[index].message.content
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_a_stream_has_no_usage_unless_asked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="sim-instant", messages=MESSAGES, stream=True)
    assert [chunk.usage async for chunk in stream if chunk.usage] == []


async def test_the_official_client_understands_each_refusal(client: openai.AsyncOpenAI) -> None:
    async def status(model: str) -> int:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model=model, messages=MESSAGES)
        return refused.value.status_code

    assert [await status(f"sim-{name}") for name in ("429", "500", "503", "529", "refuse", "quota")] == [
        429, 500, 503, 529, 400, 429,
    ]  # fmt: skip
    assert await status("sim-nobody") == 404


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert "sim-small" in [model.id async for model in client.models.list()]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"surprise": 1}, "surprise"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"metadata": {"sim_output_tokens": "x"}}, "metadata.sim_output_tokens"),
    ],
)
async def test_a_bad_body_is_refused_with_the_parameter(address: str, change: dict[str, Any], param: str) -> None:
    status, answer = await post(address, {"model": "sim-instant", "messages": MESSAGES, **change})
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["type"] == "invalid_request_error"


async def test_a_refusal_does_not_repeat_what_was_sent(address: str) -> None:
    _, answer = await post(address, {"model": "sim-instant", "messages": [{"role": "user", "content": 271828}]})
    assert "271828" not in str(answer)


async def test_a_flaky_model_fails_its_share_the_same_way_on_every_run() -> None:
    async def run() -> list[int]:
        simulator = Simulator(time_scale=0)
        address = await simulator.start()
        bodies = [{"model": "sim-flaky-30", "messages": [{"role": "user", "content": f"{i}"}]} for i in range(200)]
        statuses = [(await post(address, body))[0] for body in bodies]
        await simulator.stop()
        return statuses

    first = await run()
    assert 30 <= first.count(500) <= 90
    assert await run() == first


async def test_the_next_try_of_a_flaky_call_has_a_new_chance(address: str) -> None:
    body = {"model": "sim-flaky-50", "messages": MESSAGES}
    statuses = {(await post(address, body, {"X-Client-Request-Id": "r-1"}))[0] for _ in range(40)}
    assert statuses == {200, 500}


async def test_calls_are_counted_by_model_and_by_request(simulator: Simulator, address: str) -> None:
    body = {"model": "sim-instant", "messages": MESSAGES}
    for request in ("r-1", "r-2", "r-1"):
        await post(address, body, {"X-Client-Request-Id": request})
    async with aiohttp.ClientSession() as session, session.get(address.removesuffix("/v1") + "/stats") as response:
        stats = await response.json()
    assert stats == simulator.counts()
    assert stats["calls_by_request"] == {"r-1": 2, "r-2": 1}
    assert stats["calls_by_model"] == {"sim-instant": 3}
    assert stats["in_flight"] == 0


async def test_a_call_that_hangs_ends_when_its_caller_leaves(simulator: Simulator, address: str) -> None:
    async def stats_until(in_flight: int) -> None:
        while simulator.counts()["in_flight"] != in_flight:  # noqa: ASYNC110 - counts have no event to wait for
            await asyncio.sleep(0.001)

    call = asyncio.create_task(post(address, {"model": "sim-hang", "messages": MESSAGES}))
    await asyncio.wait_for(stats_until(1), 10)
    call.cancel()
    await asyncio.wait_for(stats_until(0), 10)


async def test_a_wrong_key_is_refused_where_one_is_asked_for() -> None:
    simulator = Simulator(time_scale=0, api_key="right")
    address = await simulator.start()
    body = {"model": "sim-instant", "messages": MESSAGES}
    refused, _ = await post(address, body, {"Authorization": "Bearer wrong"})
    taken, _ = await post(address, body, {"Authorization": "Bearer right"})
    await simulator.stop()
    assert (refused, taken) == (401, 200)


class TestProcess:
    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fairlane.adapters.simulator", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def test_it_says_where_it_listens_and_stops_when_told_even_while_a_call_hangs(self) -> None:
        process = await self.start("--port", "0")
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().split()[-1]
        hanging = asyncio.create_task(post(address, {"model": "sim-hang", "messages": MESSAGES}))
        assert (await post(address, {"model": "sim-instant", "messages": MESSAGES}))[0] == 200
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        await asyncio.gather(hanging, return_exceptions=True)
        assert (process.returncode, errors) == (0, b"")

    async def test_a_port_that_is_taken_is_one_clear_line(self, address: str) -> None:
        process = await self.start("--port", address.removesuffix("/v1").split(":")[-1])
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert errors.decode().count("\n") == 1
        assert "choose another --port" in errors.decode()
