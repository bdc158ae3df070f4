"""Server-sent events from bytes cut anywhere, and the answer they amount to."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.adapters.chat_answer import Malformed, completion, parse, reported_usage
from fairlane.adapters.chat_stream import Assembly, EventDecoder, StreamFailed
from fairlane.schemas.result import Usage


def decoded(raw: bytes, cuts: list[int]) -> list[bytes]:
    decoder = EventDecoder()
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [data for start, end in pairwise(edges) for data in decoder.feed(raw[start:end])]


def assembled(*deltas: dict[str, Any], finish_reason: str | None = "stop") -> dict[str, Any]:
    assembly = Assembly()
    for delta in deltas:
        assembly.take(orjson.dumps({"id": "c-1", "choices": [{"index": 0, "delta": delta}]}))
    assembly.take(orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}))
    return assembly.answer()


@given(
    st.lists(st.binary(max_size=30).map(lambda data: data.translate(None, b"\r\n").strip()), max_size=5),
    st.lists(st.integers(0, 500), max_size=8),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(events: list[bytes], cuts: list[int], end: bytes) -> None:
    raw = b"".join(b": comment" + end + b"event: message" + end + b"data: " + data + end * 2 for data in events)
    assert decoded(raw, cuts) == events


def test_data_over_several_lines_is_one_event_and_one_without_its_blank_line_is_none() -> None:
    assert decoded(b'data: {"a":\ndata:1}\n\ndata: cut off', []) == [b'{"a":\n1}']


def test_texts_are_joined_and_what_stands_once_is_kept() -> None:
    answer = assembled({"role": "assistant", "content": ""}, {"content": "two "}, {"content": "words", "refusal": None})
    assert answer == {
        "id": "c-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "two words"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


def test_tool_calls_are_joined_by_their_index_even_where_the_id_is_repeated() -> None:
    def piece(index: int, arguments: str, **more: str) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "id": f"t-{index}", "function": {"arguments": arguments, **more}}]}

    answer = assembled(
        piece(0, '{"a"', name="f"), piece(1, "{}", name="g"), piece(0, ":1}"), finish_reason="tool_calls"
    )
    assert answer["choices"][0]["message"]["tool_calls"] == [
        {"id": "t-0", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "t-1", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_an_old_function_call_is_joined_too() -> None:
    answer = assembled({"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}})
    assert answer["choices"][0]["message"]["function_call"] == {"name": "f", "arguments": "{}"}


def test_log_probabilities_are_put_in_a_row() -> None:
    assembly = Assembly()
    for token in ("a", "b"):
        choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token}], "refusal": None}}
        assembly.take(orjson.dumps({"choices": [choice]}))
    assert assembly.answer()["choices"][0]["logprobs"] == {"content": [{"token": "a"}, {"token": "b"}]}


@pytest.mark.parametrize(
    "event",
    [b"[1]", b"{", b'{"choices": 1}', b'{"choices": [{}]}', b'{"choices": [1]}', b"{}", b'{"choices":[],"x":NaN}',
     b'{"choices":[{"index":0,"delta":{"tool_calls":[{}]}}]}'],
)  # fmt: skip
def test_an_event_that_is_no_chunk_is_malformed(event: bytes) -> None:
    with pytest.raises(Malformed):
        Assembly().take(event)


def test_an_error_inside_the_stream_is_a_failure() -> None:
    with pytest.raises(StreamFailed):
        Assembly().take(b'{"error": {"message": "overloaded"}}')


def test_a_stream_is_complete_by_its_end_mark_or_by_every_finish_reason() -> None:
    assembly = Assembly()
    assert not assembly.complete
    assembly.take(b'{"choices": [{"index": 0, "delta": {"content": "x"}}]}')
    assert not assembly.complete
    assembly.take(b"[DONE]")
    assert assembly.complete


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b"\xff"])
def test_what_is_no_chat_completion_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        parse(content)


@pytest.mark.parametrize(
    "usage",
    [None, [], {}, {"prompt_tokens": 1}, {"prompt_tokens": -1, "completion_tokens": 1},
     {"prompt_tokens": "1", "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 2**60}],
)  # fmt: skip
def test_usage_that_cannot_be_read_counts_as_none(usage: object) -> None:
    assert reported_usage(usage) is None


def test_details_never_exceed_the_totals_and_odd_ones_count_as_absent() -> None:
    reported = reported_usage(
        {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 9},
            "completion_tokens_details": {"reasoning_tokens": True},
        }
    )
    assert reported == Usage(input_tokens=5, cached_input_tokens=5, output_tokens=3, reasoning_tokens=0)


def test_an_estimate_counts_what_was_said_in_any_way() -> None:
    question = {"messages": [{"role": "user", "content": "12345678"}]}
    tools = [{"id": "t", "function": {"name": "f", "arguments": "{}"}}]
    answer = {"choices": [{"message": {"content": "é" * 6, "tool_calls": tools}}]}
    estimated = completion(question, answer, http_status=200, provider_request_id=None)
    assert estimated.usage_estimated
    assert estimated.usage.output_tokens == -(-(12 + len(orjson.dumps(tools))) // 4)
    assert estimated.usage.input_tokens >= 2
