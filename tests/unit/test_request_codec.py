"""Any bytes become a request or an error with a stable code, the field and no input."""

from __future__ import annotations

import gzip
import json
import pickle
from typing import Any

import orjson
import pytest

from fairlane.schemas import codec
from fairlane.schemas.codec import DecodeError, decode_foreign
from fairlane.schemas.command import Command
from fairlane.schemas.request_codec import decode_request, fingerprint, readable_ids
from fairlane.schemas.shown_names import shown_name

MAX = 1_048_576
SECRET = "hunter2-S3CRET"


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": "fairlane.request.v1",
        "request_id": "r-1",
        "tenant_id": "acme",
        "body": {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64},
    }
    base.update(changes)
    return {name: value for name, value in base.items() if value is not ...}


def body(**changes: Any) -> dict[str, Any]:
    merged = {**document()["body"], **changes}
    return document(body={name: value for name, value in merged.items() if value is not ...})


def content(value: Any) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": value}])


def refusal(value: bytes | None, max_bytes: int = MAX) -> tuple[str, str | None, str]:
    with pytest.raises(DecodeError) as failure:
        decode_request(value, max_bytes)
    detail = failure.value.detail
    assert detail.hint
    assert not detail.retryable
    assert SECRET not in str(failure.value) + detail.model_dump_json()
    return detail.code, detail.field, detail.message


def raw(text: str) -> bytes:
    """A request whose text has a place to break, with readable ids before it."""
    return (
        '{"schema":"fairlane.request.v1","request_id":"r-1","tenant_id":"acme","body":{"model":"auto",'
        '"messages":[{"role":"user","content":"x"}],"metadata":' + text + "}}"
    ).encode("utf-8", "surrogatepass")


def test_the_documented_request_decodes() -> None:
    value = b"""{"schema": "fairlane.request.v1", "request_id": "r-1", "tenant_id": "acme",
     "idempotency_key": "order-17", "priority": "normal", "deadline": "2026-11-20T18:00:30Z",
     "labels": {"project": "search"}, "stream": false,
     "body": {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}}"""
    request, parsed = decode_request(value, MAX)
    assert request.idempotency_key == "order-17"
    assert request.body.output_token_limit == 64
    assert parsed["body"]["messages"][0]["content"] == "Hello"


def test_undocumented_parameters_are_kept_for_the_catalog_to_judge() -> None:
    request, _ = decode_request(orjson.dumps(body(top_k=40)), MAX)
    assert request.body.model_extra == {"top_k": 40}


BROKEN_BYTES = {
    "tombstone": (None, "the record has no value (a tombstone)"),
    "empty": (b"", "the value is empty"),
    "white space": (b" \n\t", "the value is empty"),
    "byte-order mark": (b"\xef\xbb\xbf{}", "the value begins with a byte-order mark"),
    "UTF-16": (json.dumps(document()).encode("utf-16"), "the value looks like UTF-16"),
    "UTF-16 without mark": (json.dumps(document()).encode("utf-16-be"), "the value looks like a schema-registry"),
    "invalid UTF-8": (b'{"a":"\xff"}', "invalid unicode code point at line 1 column 7"),
    "overlong NUL": (b'{"a":"\xc0\x80"}', "invalid unicode code point"),
    "lone surrogate": (b'{"a":"\\ud800"}', "at line 1 column"),
    "raw surrogate": (raw('"\ud800"'), "invalid unicode code point"),
    "control character": (b'{"a":"\x01"}', "control character"),
    "cut off": (b'{"a"', "EOF while parsing"),
    "trailing bytes": (b"{}x", "trailing characters"),
    "two documents": (b"{}{}", "trailing characters"),
    "Avro": (b"\x00\x00\x00\x00\x07\x0eacme", "the value looks like a schema-registry format"),
    "pickle": (pickle.dumps(document()), "the value looks like a Python pickle"),
    "gzip": (gzip.compress(json.dumps(document()).encode()), "the value looks like gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "the value looks like zstd"),
    "comment": (b"// hello\n{}", "expected value"),
    "trailing comma": (b'{"a":1,}', "trailing comma"),
    "single quotes": (b"{'a':1}", "key must be a string"),
    "NaN": (raw("NaN"), "expected value"),
    "Infinity": (raw("-Infinity"), "at line 1 column"),
    "a number beyond doubles": (raw("1e999"), "a number is beyond what a double or a 64-bit integer holds"),
    "a long fraction beyond doubles": (raw("9" * 400 + ".5"), "a number is beyond"),
    "a 5,000-digit integer": (raw("9" * 5000), "number out of range"),
    "a 4,000-digit integer": (raw("9" * 4000), "a number is beyond"),
    "an integer beyond 64 bits": (raw("18446744073709551616"), "a number is beyond"),
    "duplicate key": (b'{"hunter2-S3CRET":1,"hunter2-S3CRET":2}', "an object has the same key twice at line 1"),
    "duplicate key below": (raw('{"hunter2-S3CRET":"","hunter2-S3CRET":""}'), "an object has the same key twice"),
    "arrays 5,000 deep": (raw("[" * 5000 + "]" * 5000), "recursion limit exceeded"),
    "objects 100,000 deep": (raw('{"a":' * 100_000), "recursion limit exceeded"),
    "null": (b"null", "not an object"),
    "array": (b"[]", "not an object"),
    "string": (b'"hunter2-S3CRET"', "not an object"),
    "number": (b"5", "not an object"),
}


@pytest.mark.parametrize(("value", "message"), BROKEN_BYTES.values(), ids=BROKEN_BYTES.keys())
def test_bytes_that_are_not_one_json_object_are_invalid_json(value: bytes | None, message: str) -> None:
    code, field, told = refusal(value)
    assert (code, field) == ("invalid_json", None)
    assert message in told


def test_a_value_above_the_limit_is_too_large_before_it_is_parsed() -> None:
    assert refusal(b"{" * 101, max_bytes=100) == ("too_large", None, "the value has 101 bytes, the limit is 100")


VIOLATIONS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "schema missing": (document(schema=...), "schema", "is required"),
    "schema of another kind": (document(schema="fairlane.result.v1"), "schema", "must be 'fairlane.request.v1'"),
    "schema no text": (document(schema=1), "schema", "must be 'fairlane.request.v1'"),
    "no body": (document(body=...), "body", "is required"),
    "body no object": (document(body=SECRET), "body", "must be an object"),
    "no tenant": (document(tenant_id=...), "tenant_id", "is required"),
    "empty id": (document(request_id=""), "request_id", "must not be empty"),
    "id too long": (document(request_id="x" * 129), "request_id", "must have at most 128 characters"),
    "id with a space": (document(request_id="a " + SECRET), "request_id", "must be visible ASCII characters"),
    "id with a line break": (document(request_id="a\r\n"), "request_id", "must be visible ASCII characters"),
    "id that looks like another": (document(tenant_id="\u0430cme"), "tenant_id", "must be visible ASCII characters"),
    "id with a hidden character": (document(tenant_id="acme\u200b"), "tenant_id", "must be visible ASCII characters"),
    "id with NUL": (document(tenant_id="acme\0"), "tenant_id", "must be visible ASCII characters"),
    "id a number": (document(request_id=5), "request_id", "must be a string"),
    "key too long": (document(idempotency_key="k" * 256), "idempotency_key", "must have at most 255 characters"),
    "unknown field": (document(callback_url="http://169.254.169.254"), "callback_url", "is not a field"),
    "unknown field with a telling name": (document(**{f"a {SECRET}": 1}), "?", "is not a field of this contract"),
    "unknown field with a huge name": (document(**{"x" * 1_000_000: 1}), "?", "is not a field of this contract"),
    "__proto__": (document(__proto__={}), "__proto__", "is not a field of this contract"),
    "priority": (document(priority=SECRET), "priority", "must be 'critical', 'high', 'normal', 'low' or 'batch'"),
    "deadline a number": (document(deadline=1_700_000_000), "deadline", "must be an RFC 3339 time as a string"),
    "deadline a date": (document(deadline="2026-11-20"), "deadline", "must be an RFC 3339 time with a zone"),
    "deadline without zone": (document(deadline="2026-11-20T18:00:30"), "deadline", "must be an RFC 3339 time with"),
    "deadline that does not exist": (document(deadline="2026-02-30T00:00:00Z"), "deadline", "a time that exists"),
    "deadline in 1970": (document(deadline="1970-01-01T00:00:00Z"), "deadline", "must be a year from 2000 to 9998"),
    "deadline in 9999": (document(deadline="9999-12-31T23:59:59-12:00"), "deadline", "must be a year from 2000"),
    "deadline before 2000 in UTC": (document(deadline="2000-01-01T00:00:00+14:00"), "deadline", "must be a year from"),
    "deadline in other digits": (document(deadline="\u0662026-11-20T18:00:30Z"), "deadline", "must be an RFC 3339"),
    "two deadlines": (
        document(deadline="2026-11-20T18:00:30Z", timeout_ms=5),
        "timeout_ms",
        "give deadline or timeout",
    ),
    "timeout of zero": (document(timeout_ms=0), "timeout_ms", "must be at least 1"),
    "timeout a bool": (document(timeout_ms=True), "timeout_ms", "must be a whole number"),
    "timeout a fraction": (document(timeout_ms=1.5), "timeout_ms", "must be a whole number"),
    "stream a text": (document(stream="yes"), "stream", "must be true or false"),
    "labels a list": (document(labels=[]), "labels", "must be an object"),
    "too many labels": (document(labels={f"k{i}": "" for i in range(17)}), "labels", "must have at most 16 entries"),
    "a label's value no text": (document(labels={"project": 5}), "labels.project", "must be a string"),
    "a label's value with an escape": (document(labels={"p": "\x1b[31m"}), "labels.p", "must have no control"),
    "a label's value with a line break": (document(labels={"p": "a\nb"}), "labels.p", "must have no control"),
    "a label's key with a space": (document(labels={f"a {SECRET}": ""}), "labels.?", "must be visible ASCII"),
    "a label's value too long": (document(labels={"p": "x" * 257}), "labels.p", "must have at most 256 characters"),
    "no model": (body(model=...), "body.model", "is required"),
    "no messages": (body(messages=[]), "body.messages", "must not be empty"),
    "a message no object": (body(messages=[SECRET]), "body.messages.0", "must be an object"),
    "role": (body(messages=[{"role": SECRET}]), "body.messages.0.role", "must be 'system', 'developer'"),
    "order of roles": (body(messages=[{"role": "tool", "content": "x"}]), "body.messages.0", "a tool message must"),
    "content a number": (content(5), "body.messages.0.content", "must be text or a list of parts"),
    "content an object": (content({"text": SECRET}), "body.messages.0.content", "must be text or a list of parts"),
    "content empty": (content([]), "body.messages.0.content", "must not be empty"),
    "part no object": (content([SECRET]), "body.messages.0.content.0", "must be an object whose type is one of"),
    "part of unknown type": (content([{"type": SECRET}]), "body.messages.0.content.0", "must be an object whose type"),
    "part without text": (content([{"type": "text"}]), "body.messages.0.content.0.text", "is required"),
    "part with a number": (
        content([{"type": "text", "text": 5}]),
        "body.messages.0.content.0.text",
        "must be a string",
    ),
    "image": (
        content([{"type": "image_url", "image_url": SECRET}]),
        "body.messages.0.content.0.image_url",
        "an object",
    ),
    "max_tokens of 0": (body(max_tokens=0), "body.max_tokens", "must be at least 1"),
    "max_tokens below 0": (body(max_tokens=-5), "body.max_tokens", "must be at least 1"),
    "max_tokens a bool": (body(max_tokens=True), "body.max_tokens", "must be a whole number"),
    "max_tokens a text": (body(max_tokens="64"), "body.max_tokens", "must be a whole number"),
    "temperature": (body(temperature=2.5), "body.temperature", "must be at most 2"),
    "temperature a bool": (body(temperature=True), "body.temperature", "must be a number"),
    "seed beyond 64 bits": (body(seed=2**63), "body.seed", "must be at most 9223372036854775807"),
    "stop of five": (body(stop=["a"] * 5), "body.stop", "must have at most 4 entries"),
    "stop of numbers": (body(stop=[1]), "body.stop.0", "must be a string"),
    "stop a number": (body(stop=1), "body.stop", "must be text or a list of texts"),
    "tool_choice": (body(tool_choice=1), "body.tool_choice", "must be text or an object"),
    "tools": (body(tools=[1, 2]), "body.tools.0", "must be an object"),
    "metadata": (body(metadata={"a b": 1}), "body.metadata.?", "must be a string"),
    "stream_options": (body(stream_options={"nope": 1}), "body.stream_options.nope", "is not a field"),
}


@pytest.mark.parametrize(("value", "field", "message"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_violation_names_the_field_and_the_rule(value: dict[str, Any], field: str | None, message: str) -> None:
    code, told_field, told = refusal(orjson.dumps(value))
    assert (code, told_field) == ("schema_violation", field)
    assert told.startswith(message) or message in told
    assert readable_ids(orjson.dumps(value)) in {("acme", "r-1"), None}


def test_more_violations_are_counted() -> None:
    _, field, message = refusal(orjson.dumps(document(stream=1, timeout_ms=0)))
    assert (field, message) == ("timeout_ms", "must be at least 1 (and 1 more)")


def test_another_version_is_told_before_anything_else() -> None:
    code, field, message = refusal(orjson.dumps(document(schema="fairlane.request.v2", new_field=1, body=...)))
    assert (code, field) == ("unsupported_version", "schema")
    assert message == "this installation reads fairlane.request.v1 only"


@pytest.mark.parametrize(
    "large",
    [
        document(labels={str(i): i for i in range(50_000)}),
        document(**{f"k{i}": i for i in range(50_000)}),
        body(messages=[1] * 50_000),
        content([1] * 50_000),
        body(tools=[1] * 50_000),
        body(metadata={str(i): i for i in range(50_000)}),
        body(logit_bias={str(i): "x" for i in range(50_000)}),
        body(stream_options={str(i): "x" for i in range(50_000)}),
    ],
)
def test_a_record_full_of_violations_makes_few_errors(large: dict[str, Any]) -> None:
    _, _, message = refusal(orjson.dumps(large))
    assert "more" not in message or int(message.rpartition("and ")[2].split()[0]) < 2000


HARMLESS = {
    "NUL in a prompt": content("a\0b"),
    "controls in a prompt": content("\x1b[31m\r\n\u202e"),
    "emoji": content("👩‍👩‍👧‍👦" * 1000),
    "format strings": content("%s {} ${x} '; DROP TABLE"),
    "content null": content(None),
    "parts": content([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:"}}]),
    "a deadline with an offset": document(deadline="2026-11-20T18:00:30.123456789+02:00"),
    "a deadline in small letters": document(deadline="2026-11-20t18:00:30z"),
    "the largest integer": body(seed=2**63 - 1),
    "a whole number as temperature": body(temperature=1),
    "tool answers": body(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "tool_call_id": "1", "content": "x"},
            {"role": "tool", "tool_call_id": "2", "content": "x"},
        ]
    ),
    "nesting below the limit": body(response_format={"deep": json.loads("[" * 100 + "]" * 100)}),
}


@pytest.mark.parametrize("value", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_only_looks_dangerous_decodes(value: dict[str, Any]) -> None:
    request, parsed = decode_request(orjson.dumps(value), MAX)
    assert request.request_id == "r-1"
    assert parsed == value


# --- names of the sender's choice -----------------------------------------------------------------

SHOWN = (
    "max_token", "temprature", "maxTokens", "MAX_TOKENS", "top_k", "top_k2", "topK", "Body", "idempotencyKey",
    "webhook", "callback_url", "requestId", "baseURL", "userID", "__proto__", "constructor", "toString",
    "budget_nano_usd", "score_threshold", "maxToolCallsPerTurn", "repetition_penalty", "min_p", "x",
)  # fmt: skip
NOT_SHOWN = (
    "sk_SECRETLEAK_9f8e7d6c5b4a", "sk_live_SECRETLEAK", "sk_live_abcdefgh", "pk_test_word", "ghp_word",
    "github_pat_word", "gsk_word", "glsa_word", "dckr_pat_word", "Bearer_word",
    "AKIAIOSFODNN7EXAMPLE", "SECRETLEAK", "deadbeefcafe",
    "c0ffee5ec2e7", "eyJhbGciOiJIUzI1NiJ9", "aGVsbG8gd29ybGQ",
    "qzxvwkjtrmpd", "jkqvzkwpq", "wordwordwordword", "tenant_id\n", "tenant_id ", "a b", "\u00e9", "", "2fa", "a__b",
    "idempotency_keyea23c42da", "a" * 31 + "0a", "aB" * 12,
)  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_name_that_reads_like_a_field_is_shown(name: str) -> None:
    assert shown_name(name) == name


def test_of_many_wrong_names_only_the_one_that_is_told_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """To judge all of a record's hundred thousand would stop a dispatcher for longer than its session."""
    judged = []

    def counted(name: str) -> str:
        judged.append(name)
        return name

    monkeypatch.setattr(codec, "shown_name", counted)
    document = orjson.dumps({f"unknown_{number}": 1 for number in range(5_000)})
    with pytest.raises(DecodeError, match=r"and 5\d{3} more"):
        decode_foreign(Command, document)
    assert len(judged) == 1


@pytest.mark.parametrize("name", NOT_SHOWN)
def test_a_name_that_looks_like_a_credential_is_not_shown(name: str) -> None:
    assert shown_name(name) == "?"


# --- ids of records that may be invalid -----------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        orjson.dumps(document()),
        orjson.dumps(document(schema="fairlane.request.v2")),
        orjson.dumps(document(body=5, unknown=1)),
        orjson.dumps(body(temperature=9)),
        raw("NaN"),
        raw("1e999"),
        raw("9" * 5000),
        raw('{"a":1,"a":2}'),
        raw("[" * 300 + "]" * 300),
        raw('"\\ud800"'),
        b"\xef\xbb\xbf" + orjson.dumps(document()),
        b'{"tenant\\u005fid":"acme","request_id":"r\\u002d1"}',
        b'{"request_id":"r-1","tenant_id":"acme","body":{"tenant_id":"other","request_id":5}}',
    ],
)
def test_ids_are_read_from_records_that_break_the_rules_elsewhere(value: bytes) -> None:
    assert readable_ids(value) == ("acme", "r-1")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b'["acme","r-1"]',
        b'[["tenant_id","acme"],["request_id","r-1"]]',
        orjson.dumps(document(tenant_id=...)),
        orjson.dumps(document(tenant_id=5)),
        orjson.dumps(document(tenant_id="a b")),
        orjson.dumps(document(tenant_id=["acme"])),
        orjson.dumps(document(request_id="x" * 129)),
        b'{"tenant_id":"acme","tenant_id":"beta","request_id":"r-1"}',
        b'{"tenant_id":"acme","tenant\\u005fid":"acme","request_id":"r-1"}',
        b'{"tenant_id":"acme","request_id":"r-1","x":1,"x":2}',
        b'{"body":{"tenant_id":"acme","request_id":"r-1"}}',
        orjson.dumps(document())[:-1],
        orjson.dumps(document()) * 2,
        json.dumps(document()).encode("utf-16"),
        b'{"tenant_id":"acme","request_id":"r-1","x":"\xff"}',
        raw("[" * 5000 + "]" * 5000),
        b'{"tenant_id":"acme","request_id":"r-1","x":"' + b"x" * (8 * 1024 * 1024) + b'"}',
    ],
)
def test_ids_that_are_not_beyond_doubt_are_not_read(value: bytes | None) -> None:
    assert readable_ids(value) is None


# --- fingerprints ---------------------------------------------------------------------------------


def test_the_order_of_keys_and_white_space_do_not_change_a_fingerprint() -> None:
    value = body(metadata={"a": "1", "b": "2"})
    backwards = {name: value[name] for name in reversed(value)}
    backwards["body"] = {name: value["body"][name] for name in reversed(value["body"])}
    backwards["body"]["metadata"] = {"b": "2", "a": "1"}
    _, one = decode_request(orjson.dumps(value), MAX)
    _, two = decode_request(json.dumps(backwards, indent=3).encode(), MAX)
    assert fingerprint(one["body"]) == fingerprint(two["body"])


def test_another_body_has_another_fingerprint() -> None:
    assert fingerprint(document()["body"]) != fingerprint(body(max_tokens=65)["body"])
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.0})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
