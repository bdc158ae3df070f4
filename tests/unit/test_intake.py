"""What the gate makes of a record before it asks the admission store."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fairlane.agents.config_view import ConfigView, ModelEntry, price_row
from fairlane.agents.intake import Accepted, IntakeLimits, Refused, examine
from fairlane.ports import Record
from fairlane.ports.log import Fault
from fairlane.schemas.base import timestamp_to_ms
from fairlane.schemas.catalog import Model, Pool, Provider
from fairlane.schemas.headers import Headers
from fairlane.schemas.result import Status
from fairlane.schemas.tenant import Tenant

NOW_MS = 1_795_000_000_000
LIMITS = IntakeLimits(max_request_bytes=10_000, default_timeout_ms=60_000, longest_timeout_ms=86_400_000)


def model(name: str, *, context: int = 1000, output: int = 100, extra: tuple[str, ...] = ()) -> ModelEntry:
    entry = Model.model_validate_json(
        orjson.dumps(
            {
                "model": name,
                "provider": "sim",
                "pool": "sim",
                "context_tokens": context,
                "max_output_tokens": output,
                "extra_params": list(extra),
                "prices": [
                    {"from": "2026-01-01T00:00:00Z", "input": "0.15", "cached_input": "0.075", "output": "0.60"}
                ],
            }
        )
    )
    return ModelEntry(entry, tuple(price_row(name, price) for price in entry.prices))


VIEW = ConfigView(
    version="t3-c7",
    tenants={
        "acme": Tenant(tenant_id="acme"),
        "asleep": Tenant.model_validate_json(b'{"tenant_id":"asleep","status":"suspended"}'),
        "picky": Tenant(tenant_id="picky", models=["small*"]),
    },
    providers={"sim": Provider(provider="sim", base_url="http://127.0.0.1:1/v1")},
    pools={"sim": Pool(pool="sim", slots=4)},
    models={"small": model("small"), "large": model("large", context=8000, output=4000, extra=("top_k",))},
    routes={"auto": ("small", "large")},
)


def request(**changes: Any) -> dict[str, Any]:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], **changes.pop("body", {})}
    return {"schema": "fairlane.request.v1", "request_id": "r-1", "tenant_id": "acme", "body": body, **changes}


def record(value: bytes | None, headers: Headers = ()) -> Record:
    return Record("requests", 3, 17, NOW_MS - 5, None, value, headers)


def intake(document: dict[str, Any], headers: Headers = ()) -> Accepted | Refused:
    return examine(record(orjson.dumps(document), headers), VIEW, LIMITS, NOW_MS)


def accepted(document: dict[str, Any], headers: Headers = ()) -> Accepted:
    item = intake(document, headers)
    assert isinstance(item, Accepted), item
    return item


def refused(document: dict[str, Any]) -> Refused:
    item = intake(document)
    assert isinstance(item, Refused)
    return item


def test_a_plain_request_is_accepted_with_defaults_filled() -> None:
    item = accepted(request())
    assert item.job.idempotency_key == "r-1"
    assert item.job.route.model == "small"
    assert item.job.config_version == "t3-c7"
    assert item.ticket.deadline_ms == NOW_MS - 5 + 60_000
    assert item.ticket.output_limit == 100


def test_the_hold_is_the_price_of_every_prompt_byte_and_the_whole_output_limit() -> None:
    item = accepted(request(body={"max_tokens": 10}))
    # 5 bytes of text, 4 around the message, 3 for the reply: 12 tokens at 150 and 10 at 600 nano-dollars.
    assert item.job.hold_nano_usd == 12 * 150 + 10 * 600


def test_the_hold_covers_every_choice_asked_for() -> None:
    one, three = accepted(request(body={"max_tokens": 10})), accepted(request(body={"max_tokens": 10, "n": 3}))
    assert three.job.hold_nano_usd - one.job.hold_nano_usd == 2 * 10 * 600


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"tenant_id": "nobody"}, "unknown_tenant", "tenant_id"),
        ({"tenant_id": "asleep"}, "tenant_suspended", "tenant_id"),
        ({"body": {"model": "gpt-9"}}, "unknown_model", "body.model"),
        ({"tenant_id": "picky", "body": {"model": "large"}}, "model_not_allowed", "body.model"),
        ({"body": {"max_tokens": 101}}, "schema_violation", "body.max_tokens"),
        ({"body": {"max_completion_tokens": 101}}, "schema_violation", "body.max_completion_tokens"),
        ({"body": {"messages": [{"role": "user", "content": "x" * 5000}]}}, "context_too_long", "body.messages"),
        ({"body": {"top_k": 3}}, "schema_violation", "body.top_k"),
        ({"schema": "fairlane.request.v9"}, "unsupported_version", "schema"),
        ({"colour": "red"}, "schema_violation", "colour"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_code_and_field(
    change: dict[str, Any], code: str, field: str
) -> None:
    item = refused(request(**change))
    assert (item.detail.code.value, item.detail.field, item.status) == (code, field, Status.REJECTED)
    assert item.ids is not None
    assert item.detail.hint


def test_a_parameter_the_model_lists_is_accepted() -> None:
    assert accepted(request(body={"model": "large", "top_k": 3})).job.body["top_k"] == 3


def test_a_route_takes_the_first_model_that_fits() -> None:
    small = accepted(request(body={"model": "auto"}))
    large = accepted(request(body={"model": "auto", "max_tokens": 2000}))
    assert (small.job.route.model, large.job.route.model) == ("small", "large")


def test_a_route_none_of_whose_models_is_allowed_says_so() -> None:
    item = refused(request(tenant_id="picky", body={"model": "auto", "max_tokens": 2000}))
    assert item.detail.code.value == "schema_violation"


def test_a_deadline_in_the_past_expires_on_receipt() -> None:
    item = refused(request(deadline="2020-01-01T00:00:00Z"))
    assert (item.detail.code.value, item.detail.field, item.status) == (
        "deadline_exceeded",
        "deadline",
        Status.EXPIRED,
    )


def test_a_deadline_far_away_is_cut_to_the_longest_timeout() -> None:
    assert accepted(request(deadline="9000-01-01T00:00:00Z")).ticket.deadline_ms == NOW_MS - 5 + 86_400_000


def test_a_timeout_counts_from_the_time_of_the_record() -> None:
    item = accepted(request(timeout_ms=1500))
    assert item.job.deadline is not None
    assert timestamp_to_ms(item.job.deadline) == NOW_MS - 5 + 1500


def test_reordered_bodies_are_the_same_body_and_changed_ones_are_not() -> None:
    plain = accepted(request(body={"max_tokens": 5, "seed": 1}))
    turned = accepted(request(body={"seed": 1, "max_tokens": 5}))
    other = accepted(request(body={"seed": 2, "max_tokens": 5}))
    assert plain.fingerprint == turned.fingerprint != other.fingerprint


def test_an_integer_that_json_readers_disagree_on_is_refused_not_failed_on() -> None:
    value = orjson.dumps(request()).replace(b'"messages"', b'"seed":' + b"9" * 40 + b',"messages"')
    item = examine(record(value), VIEW, LIMITS, NOW_MS)
    assert isinstance(item, Refused)
    assert (item.detail.code.value, item.ids) == ("invalid_json", ("acme", "r-1"))


@pytest.mark.parametrize("value", [None, b"", b"nonsense", b"[1]", b'{"tenant_id":"acme"}', b"\xff\xfe{"])
def test_without_readable_ids_there_is_nobody_to_answer(value: bytes | None) -> None:
    item = examine(record(value), VIEW, LIMITS, NOW_MS)
    assert isinstance(item, Refused)
    assert item.ids is None


def test_a_trace_goes_with_the_request_and_a_malformed_one_is_left_out() -> None:
    good = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
    assert accepted(request(), (("traceparent", good),)).ticket.trace_id == "a" * 32
    assert accepted(request(), (("traceparent", b"junk"),)).job.traceparent is None


def test_a_refusal_never_repeats_what_was_sent() -> None:
    for change in ({"body": {"temperature": "s3cret"}}, {"priority": "s3cret"}, {"deadline": "s3cret"}):
        item = refused(request(**change))
        assert "s3cret" not in item.detail.model_dump_json()


@pytest.mark.parametrize(("fault", "code"), [(Fault.TOO_LARGE, "too_large"), (Fault.DAMAGED, "invalid_json")])
def test_a_record_whose_batch_cannot_be_unpacked_is_refused_without_ids(fault: Fault, code: str) -> None:
    refused = examine(Record("requests", 0, 7, NOW_MS, None, None, (), fault), VIEW, LIMITS, NOW_MS)
    assert isinstance(refused, Refused)
    assert refused.ids is None
    assert refused.detail.code == code
    assert "compressed batch" in refused.detail.message
    assert refused.detail.hint
