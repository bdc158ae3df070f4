"""One behaviour for every provider adapter, shown against the simulator and against hand-written bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fairlane.adapters.openai_compatible import OpenAICompatibleProvider
from fairlane.adapters.openai_sdk import OpenAISdkProvider
from fairlane.adapters.simulator.server import Simulator
from fairlane.clock import ManualClock
from fairlane.ports import Call, Completion, Delta, Provider, ProviderError
from fairlane.schemas.errors import ErrorCode
from fairlane.schemas.result import Usage
from tests.contract.provider_double import ProviderDouble, http, sse

KEY = "FAIRLANE_TEST_PROVIDER_KEY"
SECRET = "sk-do-not-tell-3141592653"
TRACEPARENT = "00-11111111111111111111111111111111-2222222222222222-01"
CHUNK = b'{"id":"c-1","model":"m","choices":[{"index":0,"delta":{"content":"two words"},"finish_reason":%s}]}'
ADAPTERS: list[Callable[[ManualClock], Provider]] = [OpenAICompatibleProvider, OpenAISdkProvider]


@pytest.fixture(params=ADAPTERS, ids=["openai-compatible", "openai-sdk"])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    provider: Provider = request.param(ManualClock())
    yield provider
    await provider.close()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(time_scale=0)
    yield simulator
    await simulator.stop()


@pytest.fixture
async def address(simulator: Simulator) -> str:
    return await simulator.start()


@pytest.fixture
async def double() -> AsyncIterator[ProviderDouble]:
    double = ProviderDouble()
    yield double
    await double.stop()


def call(
    address: str, model: str = "sim-small", *, key: str | None = None, timeout_s: float = 60.0, **more: Any
) -> Call:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 20,
        "metadata": {"sim_output_tokens": "12"},
        **more,
    }
    return Call(address, key, body, timeout_s, "acme/r-1", TRACEPARENT)


async def streamed(provider: Provider, asked: Call) -> tuple[list[Delta], Completion]:
    body = {**asked.body, "stream": True, "stream_options": {"include_usage": True}}
    asked = Call(asked.base_url, asked.key, body, asked.timeout_s, asked.request_id, asked.traceparent)
    *deltas, completion = [item async for item in provider.stream(asked)]
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(completion, Completion)
    return [delta for delta in deltas if isinstance(delta, Delta)], completion


async def outcome(provider: Provider, asked: Call, *, stream: bool) -> Completion:
    return (await streamed(provider, asked))[1] if stream else await provider.complete(asked)


async def failure(provider: Provider, asked: Call, *, stream: bool) -> ProviderError:
    with pytest.raises(ProviderError) as failed:
        await outcome(provider, asked, stream=stream)
    return failed.value


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


class TestAnswers:
    @both
    async def test_an_answer_comes_with_its_usage(self, provider: Provider, address: str, stream: bool) -> None:
        hints = {"sim_output_tokens": "12", "sim_cached_tokens": "1", "sim_reasoning_tokens": "3"}
        completion = await outcome(provider, call(address, metadata=hints), stream=stream)
        assert completion.usage == Usage(input_tokens=2, cached_input_tokens=1, output_tokens=12, reasoning_tokens=3)
        assert not completion.usage_estimated
        assert (completion.http_status, completion.finish_reason) == (200, "stop")
        assert completion.response["object"] == "chat.completion"
        assert len(completion.response["choices"][0]["message"]["content"].split()) == 12

    async def test_a_streamed_answer_is_the_plain_one(self, provider: Provider, address: str) -> None:
        plain = await provider.complete(call(address, n=2))
        deltas, whole = await streamed(provider, call(address, n=2))
        said = ["".join(c["delta"].get("content", "") for d in deltas for c in d.event["choices"] if c["index"] == i)
                for i in range(2)]  # fmt: skip
        plainly = [choice["message"]["content"] for choice in plain.response["choices"]]
        assert said == plainly == [choice["message"]["content"] for choice in whole.response["choices"]]
        assert whole.usage == plain.usage
        assert whole.response["usage"] == plain.response["usage"]

    @both
    async def test_missing_usage_is_estimated_and_says_so(self, provider: Provider, address: str, stream: bool) -> None:
        completion = await outcome(provider, call(address, "sim-nousage"), stream=stream)
        text = completion.response["choices"][0]["message"]["content"]
        assert completion.usage_estimated
        assert completion.usage.output_tokens == -(-len(text) // 4)
        assert completion.usage.input_tokens >= 2

    @both
    async def test_an_estimate_never_exceeds_the_limit_that_was_sent(
        self, provider: Provider, address: str, stream: bool
    ) -> None:
        completion = await outcome(provider, call(address, "sim-nousage", max_tokens=3, n=2), stream=stream)
        assert completion.usage.output_tokens == 6

    @both
    async def test_request_id_and_trace_go_along_and_the_provider_id_comes_back(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        answer = sse(CHUNK % b'"stop"', b"[DONE]") if stream else http(
            b'{"choices":[{"index":0,"message":{"content":"hi"}}]}'
        )  # fmt: skip
        double.reply = answer.replace(b"\r\n", b"\r\nx-request-id: p-77\r\n", 1)
        completion = await outcome(provider, call(await double.start()), stream=stream)
        assert completion.provider_request_id == "p-77"
        sent = double.requests[0].lower()
        assert b"\r\nx-client-request-id: acme/r-1\r\n" in sent
        assert b"\r\ntraceparent: " + TRACEPARENT.encode() in sent
        assert sent.startswith(b"post /v1/chat/completions ")

    async def test_parameters_nobody_has_heard_of_are_sent_as_they_are(
        self, provider: Provider, double: ProviderDouble
    ) -> None:
        double.reply = http(b'{"choices":[{"index":0,"message":{"content":"hi"}}]}')
        await provider.complete(call(await double.start(), top_k=40))
        assert b'"top_k":40' in double.requests[0].replace(b" ", b"")

    @both
    async def test_calls_in_turn_share_one_connection(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        double.reply = sse(CHUNK % b'"stop"', b"[DONE]") if stream else http(
            b'{"choices":[{"index":0,"message":{"content":"hi"}}]}'
        )  # fmt: skip
        address = await double.start()
        for _ in range(3):
            await outcome(provider, call(address), stream=stream)
        assert (len(double.requests), double.connections) == (3, 1)

    async def test_many_calls_at_once_all_get_their_own_answer(self, provider: Provider, address: str) -> None:
        lengths = range(1, 41)
        calls = [call(address, max_tokens=50, metadata={"sim_output_tokens": str(n)}) for n in lengths]
        answers = await asyncio.gather(*(provider.complete(one) for one in calls))
        assert [answer.usage.output_tokens for answer in answers] == list(lengths)


class TestFailures:
    @both
    @pytest.mark.parametrize(
        ("model", "code", "status"),
        [
            ("sim-429", ErrorCode.PROVIDER_RATE_LIMITED, 429),
            ("sim-500", ErrorCode.PROVIDER_UNAVAILABLE, 500),
            ("sim-503", ErrorCode.PROVIDER_UNAVAILABLE, 503),
            ("sim-529", ErrorCode.PROVIDER_UNAVAILABLE, 529),
            ("sim-408", ErrorCode.PROVIDER_TIMEOUT, 408),
            ("sim-refuse", ErrorCode.PROVIDER_REFUSED, 400),
            ("sim-401", ErrorCode.PROVIDER_REFUSED, 401),
            ("sim-422", ErrorCode.PROVIDER_REFUSED, 422),
            ("sim-quota", ErrorCode.PROVIDER_REFUSED, 429),
            ("sim-nobody", ErrorCode.PROVIDER_REFUSED, 404),
            ("sim-badjson", ErrorCode.INVALID_RESPONSE, 200),
            ("sim-notchat", ErrorCode.INVALID_RESPONSE, 200),
            ("sim-huge", ErrorCode.INVALID_RESPONSE, 200),
            ("sim-cut", ErrorCode.PROVIDER_UNAVAILABLE, 200),
        ],
    )
    async def test_each_failure_has_its_code(
        self, provider: Provider, address: str, model: str, code: ErrorCode, status: int, stream: bool
    ) -> None:
        failed = await failure(provider, call(address, model), stream=stream)
        assert (failed.detail.code, failed.http_status) == (code, status)

    @both
    @pytest.mark.parametrize(("asked_s", "told_ms"), [(7, 7_000), (999_999, 120_000), (0, 0)])
    async def test_the_wait_a_provider_asks_for_is_told_within_bounds(
        self, provider: Provider, address: str, asked_s: int, told_ms: int, stream: bool
    ) -> None:
        failed = await failure(provider, call(address, f"sim-429-{asked_s}"), stream=stream)
        assert failed.detail.retry_after_ms == told_ms

    @both
    async def test_a_call_that_fails_is_made_once(
        self, provider: Provider, simulator: Simulator, address: str, stream: bool
    ) -> None:
        for model in ("sim-500", "sim-429", "sim-cut", "sim-408"):
            await failure(provider, call(address, model), stream=stream)
        assert simulator.counts()["calls_by_request"] == {"acme/r-1": 4}

    @both
    @pytest.mark.parametrize("model", ["sim-hang", "sim-drip"])
    async def test_the_deadline_holds_however_the_answer_is_delayed(
        self, provider: Provider, model: str, stream: bool
    ) -> None:
        simulator = Simulator(time_scale=1)
        failed = await failure(provider, call(await simulator.start(), model, timeout_s=0.3), stream=stream)
        await simulator.stop()
        assert failed.detail.code is ErrorCode.PROVIDER_TIMEOUT
        assert failed.detail.retryable

    async def test_a_stream_cut_after_words_bills_the_words(self, provider: Provider, address: str) -> None:
        failed = await failure(provider, call(address, "sim-cut"), stream=True)
        assert failed.usage_estimated
        assert failed.billed is not None
        assert failed.billed.output_tokens > 0

    async def test_a_stream_cut_after_its_usage_bills_the_usage(
        self, provider: Provider, double: ProviderDouble
    ) -> None:
        usage = b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}'
        double.reply, double.close_after = sse(CHUNK % b"null", usage, content_length=False), True
        failed = await failure(provider, call(await double.start()), stream=True)
        assert failed.detail.code is ErrorCode.PROVIDER_UNAVAILABLE
        assert (failed.billed, failed.usage_estimated) == (Usage(input_tokens=9, output_tokens=4), False)

    async def test_a_plain_answer_that_is_cut_bills_nothing(self, provider: Provider, address: str) -> None:
        assert (await failure(provider, call(address, "sim-cut"), stream=False)).billed is None

    async def test_a_failure_told_inside_a_stream_is_a_failure(
        self, provider: Provider, double: ProviderDouble
    ) -> None:
        double.reply = sse(CHUNK % b"null", b'{"error": {"message": "secret words", "code": 500}}', b"[DONE]")
        failed = await failure(provider, call(await double.start()), stream=True)
        assert failed.detail.code is ErrorCode.PROVIDER_UNAVAILABLE
        assert "secret words" not in str(failed)

    async def test_a_stream_without_end_mark_is_whole_if_every_choice_finished(
        self, provider: Provider, double: ProviderDouble
    ) -> None:
        double.reply, double.close_after = sse(CHUNK % b'"stop"', content_length=False), True
        _, completion = await streamed(provider, call(await double.start()))
        assert completion.response["choices"][0]["message"]["content"] == "two words"

    @both
    async def test_a_closed_port_is_an_unavailable_provider(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        address = await double.start()
        await double.stop()
        failed = await failure(provider, call(address), stream=stream)
        assert (failed.detail.code, failed.http_status) == (ErrorCode.PROVIDER_UNAVAILABLE, None)

    @both
    async def test_a_redirect_is_not_followed(
        self, provider: Provider, address: str, double: ProviderDouble, stream: bool
    ) -> None:
        double.reply = http(b"", f"Location: {address}/chat/completions", status="307 Temporary Redirect")
        failed = await failure(provider, call(await double.start()), stream=stream)
        assert (failed.detail.code, failed.http_status) == (ErrorCode.PROVIDER_REFUSED, 307)
        assert failed.detail.hint is not None
        assert "base_url" in failed.detail.hint

    @both
    async def test_an_answer_that_is_no_http_is_invalid(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        double.reply, double.close_after = b"SSH-2.0-OpenSSH_9.6\r\n\r\n", True
        failed = await failure(provider, call(await double.start()), stream=stream)
        assert failed.detail.code is ErrorCode.INVALID_RESPONSE

    @both
    async def test_a_status_without_an_answer_is_invalid(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        double.reply = http(b"", status="202 Accepted")
        failed = await failure(provider, call(await double.start()), stream=stream)
        assert (failed.detail.code, failed.http_status) == (ErrorCode.INVALID_RESPONSE, 202)

    @both
    async def test_what_the_provider_says_in_words_is_not_repeated_but_its_code_is(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        error = b'{"error": {"message": "Hello is secret", "code": "string_above_max_length", "param": "messages"}}'
        double.reply = http(error, status="400 Bad Request")
        failed = await failure(provider, call(await double.start()), stream=stream)
        assert failed.detail.message == ("the provider answered 400 (code string_above_max_length, param messages)")
        assert "secret" not in failed.detail.model_dump_json()

    @both
    async def test_the_largest_error_body_is_not_read_whole(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        double.reply = http(b'{"error": "' + b"x" * 2**20 + b'"}', status="500 Internal Server Error")
        failed = await failure(provider, call(await double.start()), stream=stream)
        assert failed.detail.code is ErrorCode.PROVIDER_UNAVAILABLE

    async def test_a_call_that_is_given_up_leaves_the_provider(
        self, provider: Provider, simulator: Simulator, address: str
    ) -> None:
        async def until(in_flight: int) -> None:
            while simulator.counts()["in_flight"] != in_flight:  # noqa: ASYNC110 - counts have no event to wait for
                await asyncio.sleep(0.001)

        task = asyncio.create_task(provider.complete(call(address, "sim-hang")))
        await asyncio.wait_for(until(1), 30)
        task.cancel()
        await asyncio.wait_for(until(0), 30)
        assert task.cancelled()


class TestKeys:
    @pytest.fixture
    async def guarded(self) -> AsyncIterator[str]:
        simulator = Simulator(time_scale=0, api_key=SECRET)
        yield await simulator.start()
        await simulator.stop()

    @both
    async def test_the_key_of_the_named_variable_is_sent(
        self, provider: Provider, guarded: str, monkeypatch: pytest.MonkeyPatch, stream: bool
    ) -> None:
        monkeypatch.setenv(KEY, SECRET)
        await outcome(provider, call(guarded, key=f"env:{KEY}"), stream=stream)

    @both
    async def test_a_changed_variable_counts_at_the_next_call(
        self, provider: Provider, guarded: str, monkeypatch: pytest.MonkeyPatch, stream: bool
    ) -> None:
        monkeypatch.setenv(KEY, "old")
        await failure(provider, call(guarded, key=f"env:{KEY}"), stream=stream)
        monkeypatch.setenv(KEY, SECRET)
        await outcome(provider, call(guarded, key=f"env:{KEY}"), stream=stream)

    @both
    @pytest.mark.parametrize("value", ["", "wrong-4711"])
    async def test_a_refused_key_names_the_variable_and_never_the_value(
        self, provider: Provider, guarded: str, monkeypatch: pytest.MonkeyPatch, value: str, stream: bool
    ) -> None:
        monkeypatch.setenv(KEY, value)
        failed = await failure(provider, call(guarded, key=f"env:{KEY}"), stream=stream)
        assert (failed.detail.code, failed.http_status) == (ErrorCode.PROVIDER_REFUSED, 401)
        assert failed.detail.hint is not None
        assert KEY in failed.detail.hint
        assert "4711" not in failed.detail.model_dump_json() + str(failed)

    @both
    async def test_without_the_variable_no_authorization_is_sent(
        self, provider: Provider, double: ProviderDouble, stream: bool
    ) -> None:
        assert KEY not in os.environ
        double.reply = http(b"{}", status="401 Unauthorized")
        address = await double.start()
        for key in (None, f"env:{KEY}"):
            await failure(provider, call(address, key=key), stream=stream)
        assert not any(b"\r\nauthorization:" in sent.lower() for sent in double.requests)

    @both
    async def test_a_key_no_header_takes_is_refused_without_being_told(
        self, provider: Provider, address: str, monkeypatch: pytest.MonkeyPatch, stream: bool
    ) -> None:
        monkeypatch.setenv(KEY, "line-4711\nX-Evil: 1")
        failed = await failure(provider, call(address, key=f"env:{KEY}"), stream=stream)
        assert failed.detail.code is ErrorCode.PROVIDER_REFUSED
        assert "4711" not in failed.detail.model_dump_json() + str(failed)


async def test_closing_twice_or_unused_is_no_error(provider: Provider) -> None:
    await provider.close()
    await provider.close()
