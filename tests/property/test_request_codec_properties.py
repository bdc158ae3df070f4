"""No bytes crash the decoder, leak through its errors, or make it disagree with the reading of ids."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fairlane.schemas.base import Timestamp, format_timestamp, timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.codec import DecodeError
from fairlane.schemas.request_codec import decode_request, fingerprint, readable_ids
from fairlane.schemas.shown_names import shown_name

CANARY = "c4nary-Kp7"
MAX = 1_048_576
VALID: dict[str, Any] = {
    "schema": "fairlane.request.v1",
    "request_id": "r-1",
    "tenant_id": "acme",
    "idempotency_key": "order-17",
    "priority": "normal",
    "timeout_ms": 5000,
    "labels": {"project": "search"},
    "stream": False,
    "body": {
        "model": "auto",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "Hello"},
        ],
        "max_tokens": 64,
        "temperature": 0.5,
        "stop": ["a"],
        "metadata": {"a": "b"},
        "logit_bias": {"5": 1},
        "stream_options": {"include_usage": True},
        "tool_choice": {"type": "none"},
    },
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | st.text(max_size=5) | st.just(CANARY),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just(CANARY), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, member in inner for place in places(member, (*path, name)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid request with one to three places replaced, removed or extended by something arbitrary."""
    document = json.loads(json.dumps(VALID))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(places(document)[1:]))
        holder = document
        for name in parents:
            holder = holder[name]
        action = draw(st.sampled_from(["replace", "remove", "extend"]))
        if action == "remove":
            del holder[last]
        elif action == "replace":
            holder[last] = draw(JSON)
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=5) | st.just(CANARY))] = draw(JSON)
        else:
            holder.append(draw(JSON))
        if not document:
            return document
    return document


def outcome(value: bytes) -> str | None:
    """The code of the refusal, or None; fails if anything else is raised or the canary shows."""
    try:
        request, _ = decode_request(value, MAX)
    except DecodeError as failure:
        shown = str(failure) + failure.detail.model_dump_json()
        assert CANARY not in shown
        assert shown.isprintable()
        return failure.detail.code
    assert readable_ids(value) == (request.tenant_id, request.request_id)
    return None


@given(mutated())
def test_a_damaged_request_is_refused_with_a_code_and_without_its_content(document: Any) -> None:
    try:
        value = orjson.dumps(document)
    except TypeError:
        value = json.dumps(document).encode()
    assert outcome(value) in {None, "schema_violation", "unsupported_version", "invalid_json"}


_BASE62 = string.ascii_letters + string.digits
SECRETS: dict[str, tuple[str, str, tuple[int, int]]] = {
    "Stripe": ("sk_live_", _BASE62, (8, 24)),
    "publishable": ("pk_test_", string.ascii_lowercase, (8, 24)),
    "GitHub": ("ghp_", _BASE62, (16, 36)),
    "GitHub, fine-grained": ("github_pat_", _BASE62 + "_", (16, 82)),
    "AWS": ("AKIA", string.ascii_uppercase + "234567", (16, 16)),
    "hex": ("", "0123456789abcdef", (16, 64)),
    "HEX": ("", "0123456789ABCDEF", (16, 64)),
    "base64": ("", _BASE62 + "_", (24, 88)),
    "base36": ("", string.ascii_lowercase + string.digits, (24, 64)),
    "letters": ("", string.ascii_lowercase, (16, 64)),
}
"""Shapes of credentials: how one begins, of which letters the random rest is, how long it is."""


@settings(max_examples=1000)
@given(st.sampled_from(sorted(SECRETS)), st.integers(0, 2**64), st.sampled_from(["envelope", "body", "options", "map"]))
def test_a_credential_where_a_name_stands_is_never_repeated(shape: str, seed: int, place: str) -> None:
    prefix, letters, lengths = SECRETS[shape]
    chance = random.Random(seed)  # random as credentials are: hypothesis prefers texts like "aaaa"
    name = prefix + "".join(chance.choices(letters, k=chance.randint(*lengths)))
    document = json.loads(json.dumps(VALID))
    body = document["body"]
    holder = {"envelope": document, "body": body, "options": body["stream_options"], "map": body["metadata"]}[place]
    holder[name] = 1
    if place == "body":  # the gate refuses such a member, by the name as it is shown here
        assert shown_name(name) == "?"
        return
    with pytest.raises(DecodeError) as failure:
        decode_request(orjson.dumps(document), MAX)
    assert name not in str(failure.value) + failure.value.detail.model_dump_json()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_invalid_json_or_violations(value: bytes) -> None:
    assert outcome(value) in {"invalid_json", "schema_violation"}
    readable_ids(value)


@given(st.data())
def test_a_request_damaged_as_bytes_never_crashes_the_decoder(data: st.DataObject) -> None:
    value = bytearray(orjson.dumps(VALID))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(value)))
        length = data.draw(st.integers(0, 20))
        value[place : place + length] = data.draw(st.binary(max_size=8) | st.sampled_from([b'"', b"{", b"}", b"1e999"]))
    outcome(bytes(value))
    readable_ids(bytes(value))


@given(JSON.filter(lambda value: isinstance(value, dict)), st.randoms())
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(value: dict[str, Any], random: Any) -> None:
    def shuffled(item: Any) -> Any:
        if isinstance(item, dict):
            names = list(item)
            random.shuffle(names)
            return {name: shuffled(item[name]) for name in names}
        return [shuffled(member) for member in item] if isinstance(item, list) else item

    try:
        expected = fingerprint(value)
    except TypeError:  # beyond 64 bits, which the decoder refuses before
        return
    assert fingerprint(shuffled(value)) == expected


@given(st.datetimes(timezones=st.timezones()))
def test_every_instant_a_timestamp_takes_can_be_written_and_read_again(instant: Any) -> None:
    adapter = TypeAdapter(Timestamp)
    try:
        taken = adapter.validate_python(instant)
    except ValueError:
        return
    again = adapter.validate_python(format_timestamp(taken))
    assert timestamp_to_ms(again) == timestamp_to_ms(taken)


@given(st.integers(-(2**63), 2**63 - 1))
def test_any_record_timestamp_becomes_one_that_contracts_allow(milliseconds: int) -> None:
    TypeAdapter(Timestamp).validate_python(format_timestamp(timestamp_from_ms(milliseconds)))
