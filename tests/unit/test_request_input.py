"""What a person types or pipes in becomes a request event."""

from __future__ import annotations

import json

import pytest

from fairlane.cli.request_input import Envelope, from_line, from_prompt, parse_labels
from fairlane.errors import Reject
from fairlane.schemas.codec import decode
from fairlane.schemas.request import Request


def new_id() -> str:
    return "r-new"


def test_a_prompt_becomes_an_event_that_its_contract_accepts() -> None:
    envelope = Envelope(
        tenant_id="acme", max_tokens=64, priority="high", timeout_ms=500, idempotency_key="k", labels={"a": "b"}
    )

    request = decode(Request, from_prompt("Hello", envelope, new_id).value)

    assert (request.tenant_id, request.request_id, request.idempotency_key) == ("acme", "r-new", "k")
    assert (request.priority, request.timeout_ms, request.labels) == ("high", 500, {"a": "b"})
    assert (request.body.model, request.body.max_tokens) == ("auto", 64)
    assert request.body.messages[0].content == "Hello"


def test_a_body_on_a_line_is_wrapped_in_an_event_of_the_tenant_given() -> None:
    line = json.dumps({"model": "sim-large", "messages": [{"role": "user", "content": "Hi"}]})

    prepared = from_line(line, 1, Envelope(tenant_id="acme", model="auto"), new_id)

    assert prepared is not None
    assert decode(Request, prepared.value).body.model == "sim-large"


def test_what_an_event_says_itself_goes_before_the_options() -> None:
    event = {
        "schema": "fairlane.request.v1",
        "request_id": "r-own",
        "tenant_id": "own",
        "deadline": "2026-11-20T18:00:30Z",
        "labels": {"project": "own"},
        "body": {"model": "own-model", "messages": [], "max_completion_tokens": 5},
    }
    envelope = Envelope(
        tenant_id="acme", model="auto", max_tokens=9, timeout_ms=5, labels={"project": "given", "team": "t"}
    )

    prepared = from_line(json.dumps(event), 1, envelope, new_id)

    assert prepared is not None
    assert (prepared.tenant_id, prepared.request_id) == ("own", "r-own")
    assert "timeout_ms" not in prepared.event
    assert prepared.event["labels"] == {"project": "own", "team": "t"}
    assert prepared.event["body"] == event["body"]


def test_an_empty_line_is_skipped() -> None:
    assert from_line("  \n", 1, Envelope(), new_id) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 7: not valid JSON"),
        ("[]", "line 7: expected a JSON object"),
        ('{"prompt": "hi"}', "line 7: neither"),
        ('{"messages": []}', "line 7: no tenant_id"),
        ('{"schema": "fairlane.request.v1", "tenant_id": "a", "request_id": 5}', "line 7: request_id"),
    ],
)
def test_an_unusable_line_is_named_with_its_number(line: str, says: str) -> None:
    with pytest.raises(Reject, match=says):
        from_line(line, 7, Envelope(), new_id)


def test_labels_need_an_equals_sign_and_may_contain_more() -> None:
    assert parse_labels(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(Reject, match="key=value"):
        parse_labels(["plain"])


def test_a_prompt_in_another_encoding_is_refused_in_words() -> None:
    typed = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(Reject, match="the prompt: not text that UTF-8 can hold"):
        from_prompt(typed, Envelope(tenant_id="acme"), new_id)


def test_half_a_surrogate_pair_on_a_line_is_refused_with_the_line() -> None:
    with pytest.raises(Reject, match="line 3: not text that UTF-8 can hold"):
        from_line('{"messages": [{"role": "user", "content": "\\ud800"}]}', 3, Envelope(tenant_id="acme"), new_id)
