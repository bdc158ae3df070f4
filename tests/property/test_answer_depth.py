"""However deep a provider nests its answer: it is refused, or every record that holds it can be read again."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from fairlane.adapters.chat_answer import ANSWER_DEPTH_MAX, Malformed, completion, parse
from fairlane.adapters.chat_stream import Assembly
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.result import Result
from tests.sink_samples import result

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


def nested(levels: int, kinds: list[bool]) -> bytes:
    """An object or list of so many levels; ``kinds`` says of each, in turn, whether it is an object."""
    shape = [kinds[level % len(kinds)] for level in range(levels)]
    opening = b"".join(b'{"a":' if is_object else b"[" for is_object in shape)
    return opening + b"1" + b"".join(b"}" if is_object else b"]" for is_object in reversed(shape))


LEVELS = st.integers(0, 260)
KINDS = st.lists(st.booleans(), min_size=1, max_size=4)


@given(LEVELS, KINDS, st.booleans())
@example(199, [True], False)
@example(196, [False], True)
def test_a_result_can_be_read_again_whatever_its_answer_nests(levels: int, kinds: list[bool], deep: bool) -> None:
    within = nested(levels, kinds)
    message = b'"message":{"role":"assistant","content":"Hi"' + (b',"extra":' + within if deep else b"") + b"}"
    top = b"" if deep else b',"extra":' + within
    answer = b'{"choices":[{"index":0,' + message + b"}]" + top + b"}"
    # Levels above: the answer alone; or answer, choices, choice, message.
    fits = levels + (4 if deep else 1) <= ANSWER_DEPTH_MAX
    try:
        done = completion(QUESTION, parse(answer), http_status=200, provider_request_id=None)
    except Malformed:
        assert not fits
        return
    assert fits
    whole = result().model_copy(update={"response": done.response})
    assert decode(Result, encode(whole)) == whole


@given(LEVELS, KINDS)
@example(199, [True])
def test_a_piece_of_a_stream_and_its_result_can_be_read_again(levels: int, kinds: list[bool]) -> None:
    event = b'{"choices":[{"index":0,"delta":{"content":"Hi"}}],"extra":' + nested(levels, kinds) + b"}"
    assembly = Assembly()
    try:
        piece = assembly.take(event)
    except Malformed:
        assert levels + 1 > ANSWER_DEPTH_MAX
        return
    assert piece is not None
    chunk = Chunk(
        request_id="r-1", tenant_id="acme", attempt=1, sequence=0, event_time=timestamp_from_ms(0), delta=piece
    )
    assert decode(Chunk, encode(chunk)) == chunk
    whole = result().model_copy(update={"response": assembly.answer()})
    assert decode(Result, encode(whole)) == whole
    assert orjson.loads(encode(whole))["response"]["choices"][0]["message"]["content"] == "Hi"
