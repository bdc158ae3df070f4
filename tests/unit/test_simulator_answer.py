"""The simulator's counting rules and the names of its models."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.adapters.simulator.answer import OUTPUT_TOKENS_MAX, Answer, BadRequest, input_tokens, plan, words
from fairlane.adapters.simulator.behaviour import LISTED_MODELS, Fault, behaviour_of
from fairlane.adapters.simulator.calls import CallCounts
from fairlane.schemas.chat import ChatBody


def body(content: Any = "Hello", **more: Any) -> ChatBody:
    document = {"model": "sim-small", "messages": [{"role": "user", "content": content}], **more}
    return ChatBody.model_validate_json(orjson.dumps(document))


def answer(**more: Any) -> Answer:
    return plan(body(**more), "a-1")


def test_every_listed_model_exists() -> None:
    assert all(behaviour_of(model) for model in LISTED_MODELS)


@pytest.mark.parametrize(
    "model", ["", "sim", "sim-", "gpt-4o", "sim-399", "sim-600", "sim-flaky-101", "sim-flaky-", "sim-500-1", "sim-٣٠٠"]
)
def test_a_name_outside_the_grammar_is_no_model(model: str) -> None:
    assert behaviour_of(model) is None


def test_families_take_their_number_from_the_name() -> None:
    flaky, limited, failing = behaviour_of("sim-flaky-20"), behaviour_of("sim-429-7"), behaviour_of("sim-529")
    assert flaky is not None
    assert (flaky.fault, flaky.percent) == (Fault.FLAKY, 20)
    assert limited is not None
    assert (limited.status, limited.retry_after_s) == (429, 7)
    assert failing is not None
    assert (failing.status, failing.retry_after_s) == (529, None)


@pytest.mark.parametrize(("content", "tokens"), [("", 1), ("abc", 1), ("abcd", 1), ("abcde", 2), ("ééé", 2)])
def test_input_is_a_token_for_four_bytes_rounded_up(content: str, tokens: int) -> None:
    assert input_tokens(body(content)) == tokens


@given(st.lists(st.text(max_size=200), min_size=1, max_size=8))
def test_input_tokens_lie_between_the_messages_and_the_bytes_of_the_body(contents: list[str]) -> None:
    document = {"model": "sim-small", "messages": [{"role": "user", "content": content} for content in contents]}
    raw = orjson.dumps(document)
    assert len(contents) <= input_tokens(ChatBody.model_validate_json(raw)) <= len(raw)


@given(st.integers(0, 500), st.integers(1, 60))
def test_the_pieces_of_a_stream_are_the_answer_and_its_words_are_the_tokens(tokens: int, each: int) -> None:
    cuts = [*range(0, tokens, each), tokens]
    text = "".join(words(start, end) for start, end in pairwise(cuts))
    assert text == words(0, tokens)
    assert len(text.split()) == tokens


def test_metadata_chooses_the_length_and_max_tokens_bounds_it() -> None:
    asked = answer(metadata={"sim_output_tokens": "44"})
    cut = answer(metadata={"sim_output_tokens": "44"}, max_tokens=10)
    assert (asked.tokens, asked.finish_reason) == (44, "stop")
    assert (cut.tokens, cut.finish_reason) == (10, "length")


def test_without_a_wish_the_length_is_a_function_of_the_messages() -> None:
    assert answer() == answer()
    assert len({answer(content=f"question {i}").tokens for i in range(50)}) > 10


def test_usage_counts_the_words_of_all_choices() -> None:
    planned = answer(n=3, metadata={"sim_output_tokens": "7", "sim_cached_tokens": "1", "sim_reasoning_tokens": "5"})
    completion = orjson.loads(planned.completion())
    said = sum(len(choice["message"]["content"].split()) for choice in completion["choices"])
    usage = completion["usage"]
    assert said == usage["completion_tokens"] == 21
    assert usage["prompt_tokens"] + 21 == usage["total_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 5


@pytest.mark.parametrize(
    "hints",
    [
        {"sim_output_tokens": "many"},
        {"sim_output_tokens": "-1"},
        {"sim_output_tokens": str(OUTPUT_TOKENS_MAX + 1)},
        {"sim_cached_tokens": "3"},
        {"sim_output_tokens": "2", "sim_reasoning_tokens": "3"},
    ],
)
def test_a_hint_out_of_range_is_refused_by_name(hints: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as refused:
        answer(metadata=hints)
    assert refused.value.param.startswith("metadata.sim_")


def test_calls_are_counted_by_request_and_the_oldest_request_is_forgotten_first() -> None:
    counts = CallCounts(request_ids_max=2)
    assert [counts.begin("m", request) for request in ("a", "a", "b", None, "c")] == [1, 2, 1, 1, 1]
    counts.end(200)
    snapshot = counts.snapshot()
    assert snapshot["calls_by_request"] == {"b": 1, "c": 1}
    assert (snapshot["requests_forgotten"], snapshot["in_flight"], snapshot["max_in_flight"]) == (1, 4, 5)
