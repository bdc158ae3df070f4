"""The corpus of bad input without services: the oracle stands on its own, and the gate's rules agree with it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.agents.config_view import ConfigView, ModelEntry, price_row
from fairlane.agents.intake import Accepted, IntakeLimits, examine
from fairlane.ports import Record
from fairlane.schemas.catalog import Model, Pool, Provider
from fairlane.schemas.tenant import Tenant
from tests.bad_input import wire as wiring
from tests.bad_input.case import CANARIES, Input, Kind
from tests.bad_input.corpus import KINDS, PLAIN, cases
from tests.bad_input.fuzzer import fuzzed
from tests.bad_input.judgement import fits, one_result
from tests.bad_input.oracle import ACCEPTED, DEAD, MAX_BYTES, MODELS, REJECTED, ROUTES, Oracle, Verdict, Way
from tests.bad_input.processes import PEAK_MB, over_bounds
from tests.bad_input.session import Session, _Told
from tests.bad_input.strict_json import NotJson, read

LIMITS = IntakeLimits(MAX_BYTES, 600_000, 86_400_000)
EACH = 25
SLOW_TO_MAKE = {23: 2, 24: 2, 25: 2, 42: 0}


def entry(name: str, context: int, output: int) -> ModelEntry:
    document = {
        "model": name, "provider": "sim", "pool": "sim", "context_tokens": context, "max_output_tokens": output,
        "prices": [{"from": "2020-01-01T00:00:00Z", "input": "0.15", "output": "0.60"}],
    }  # fmt: skip
    model = Model.model_validate_json(orjson.dumps(document))
    return ModelEntry(model, tuple(price_row(name, price) for price in model.prices))


VIEW = ConfigView(
    version="t1-c1",
    tenants={
        "acme": Tenant(tenant_id="acme"),
        "picky": Tenant(tenant_id="picky", models=["sim-instant"]),
        "asleep": Tenant.model_validate_json(b'{"tenant_id":"asleep","status":"suspended"}'),
    },
    providers={"sim": Provider(provider="sim", base_url="http://127.0.0.1:1/v1")},
    pools={"sim": Pool(pool="sim", slots=4)},
    models={name: entry(name, *limits) for name, limits in MODELS.items()},
    routes=ROUTES,
)


def examined(item: Input) -> tuple[Way, str]:
    now_ms = int(time.time() * 1000)
    got = examine(Record("requests", 0, 0, now_ms, item.key, item.value), VIEW, LIMITS, now_ms)
    if isinstance(got, Accepted):
        return Way(ACCEPTED), ""
    outcome = DEAD if got.ids is None else got.status.value
    said = " ".join(filter(None, (got.detail.message, got.detail.field, got.detail.hint)))
    assert got.detail.hint
    return Way(outcome, got.detail.code.value, got.detail.field), said


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: f"{kind.number} {kind.name}")
def test_the_gates_rules_and_the_oracle_agree_and_no_secret_is_repeated(kind: Kind) -> None:
    for inputs in cases(kind, SLOW_TO_MAKE.get(kind.number, EACH), seed=3):
        for item in inputs:
            if item.topic == "requests" and item.batch is None:
                got, said = examined(item)
                assert fits(got, Oracle().judge(item.value)), (got, Oracle().judge(item.value), item)
                assert not any(canary.decode() in said for canary in CANARIES)


def test_there_are_71_kinds_and_a_seed_gives_the_same_bytes() -> None:
    assert list(KINDS) == list(range(1, 72))
    for number in (11, 17, 44, 66, 69):
        assert list(cases(KINDS[number], 5, 1)) == list(cases(KINDS[number], 5, 1))
        assert list(cases(KINDS[number], 5, 1)) != list(cases(KINDS[number], 5, 2))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: f"{kind.number} {kind.name}")
def test_of_each_kind_a_few_are_plain_and_all_others_are_mutated_and_no_two_alike(kind: Kind) -> None:
    count = 3 * SLOW_TO_MAKE.get(kind.number, EACH) or 3
    made = list(cases(kind, count, seed=7))
    assert not any(item.mutated for inputs in made[:PLAIN] for item in inputs)
    fuzzed = [inputs[-1] for inputs in made[PLAIN:]]
    assert len(fuzzed) == count
    assert all(item.mutated for item in fuzzed)
    assert len({(item.value, item.key, item.headers, item.timestamp_ms, item.batch) for item in fuzzed}) == count


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: f"{kind.number} {kind.name}")
def test_the_fuzzer_changes_what_it_marks_as_mutated(kind: Kind) -> None:
    calls = []

    def fuzz(value: bytes) -> bytes:
        calls.append(value)
        return value + b"MUTATED"

    for number in range(SLOW_TO_MAKE.get(kind.number, EACH) or 1):
        chance = f"{kind.number}/{number}"
        if kind.places_mutations:
            calls.clear()
            kind.make(random.Random(chance), fuzz)
            assert calls
        else:
            [*_, last] = kind.make(random.Random(chance), None)
            assert fuzzed(random.Random(f"{chance}/fuzz"), last) != last


GOOD = b'{"schema":"fairlane.request.v1","request_id":"r","tenant_id":"acme","body":{"model":"sim-instant","messages":[{"role":"user","content":"x"}]}}'  # noqa: E501 - one document


@pytest.mark.parametrize(
    ("value", "way"),
    [
        (GOOD, Way(ACCEPTED)),
        (None, Way(DEAD, "invalid_json")),
        (GOOD[:-1], Way(DEAD, "invalid_json")),
        (b"\xef\xbb\xbf" + GOOD, Way(REJECTED, "invalid_json")),
        (GOOD.replace(b'"x"', b"NaN"), Way(REJECTED, "invalid_json")),
        (GOOD.replace(b'"r"', b'"r","request_id":"r"'), Way(DEAD, "invalid_json")),
        (GOOD.replace(b"acme", b"nobody"), Way(REJECTED, "unknown_tenant", "tenant_id")),
        (GOOD.replace(b"v1", b"v2"), Way(REJECTED, "unsupported_version", "schema")),
        (GOOD.replace(b'"acme"', b"7"), Way(DEAD, "schema_violation", "tenant_id")),
        (GOOD.replace(b'"x"', b'"' + b"x" * MAX_BYTES + b'"'), Way(REJECTED, "too_large")),
    ],
)
def test_the_oracle_says_what_the_contract_says(value: bytes | None, way: Way) -> None:
    assert Oracle().judge(value).ways == {way}


IN_A_MESSAGE = GOOD.replace(b'"user"', b'"usr"')


@pytest.mark.parametrize(
    "field", [None, "body", "body.messages", "body.messages.0", "body.messages.0.role.x", "body.model"]
)
def test_only_the_very_field_at_fault_is_right(field: str | None) -> None:
    verdict = Oracle().judge(IN_A_MESSAGE)
    assert fits(Way(REJECTED, "schema_violation", "body.messages.0.role"), verdict)
    assert not fits(Way(REJECTED, "schema_violation", field), verdict)


def test_a_second_result_is_right_only_as_the_answer_again_to_who_asked_again() -> None:
    first = {"status": "succeeded", "response": {"x": 1}, "error": None, "cost": {"nano_usd": 5}, "replayed": False}
    again = {**first, "cost": {"nano_usd": 0}, "replayed": True}
    assert one_result([], 0)
    assert one_result([first], 0)
    assert one_result([first, again], 1)
    assert not one_result([first, again], 0)
    assert not one_result([first, again, again], 1)
    for wrong in (
        first,
        {**again, "cost": {"nano_usd": 5}},
        {**again, "response": {"x": 2}},
        {**again, "replayed": False},
    ):
        assert not one_result([first, wrong], 1)


@pytest.mark.parametrize(
    ("value", "ways"),
    [
        (b'{"command":"cancel","tenant_id":"acme","request_id":"r"}', {Way("passed over")}),
        (b"", {Way(DEAD, "invalid_json")}),
        (b"null", {Way(DEAD, "invalid_json")}),
        (b'{"command":"stop","tenant_id":"acme","request_id":"r"}', {Way(DEAD, "schema_violation", "command")}),
        (b'{"command":"cancel","tenant_id":"acme"}', {Way(DEAD, "schema_violation", "request_id")}),
        (
            b'{"command":"cancel","tenant_id":7,"request_id":"r","sk_live_SECRETLEAK":1}',
            {Way(DEAD, "schema_violation", "tenant_id"), Way(DEAD, "schema_violation", "?")},
        ),
    ],
)
def test_a_broken_command_has_one_code_and_the_fields_at_fault(value: bytes, ways: set[Way]) -> None:
    assert Oracle().judge_command(value).ways == ways


def test_each_stage_has_a_bound_of_memory_and_is_held_to_it() -> None:
    assert set(PEAK_MB) == {"gate", "dispatcher", "worker", "settle", "sinks"}
    within = dict.fromkeys(PEAK_MB, 100.0)
    assert over_bounds(within) == []
    for stage, bound in PEAK_MB.items():
        assert over_bounds({**within, stage: bound + 1}) == [
            f"{stage} took {bound + 1:.0f} MB, it may take {bound:.0f}"
        ]
    assert over_bounds({"unheard-of": 1.0})


def test_the_oracle_remembers_ids_and_keys() -> None:
    oracle, other = Oracle(), GOOD.replace(b'"x"', b'"y"')
    with_key = b'"tenant_id":"acme","idempotency_key":"r"'
    assert oracle.judge(GOOD).accepted
    assert oracle.judge(GOOD) == Verdict(frozenset({Way(ACCEPTED)}), ("acme", "r"), repeats=True)
    assert oracle.judge(other).ways == {Way(DEAD, "request_id_reused", "request_id")}
    another = other.replace(b'"r"', b'"s"').replace(b'"tenant_id":"acme"', with_key)
    assert oracle.judge(another).ways == {Way(REJECTED, "idempotency_mismatch", "idempotency_key")}


_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
_FINITE = _SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))


@given(st.recursive(_FINITE, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)), st.booleans())
def test_the_oracles_reader_reads_what_was_written(value: object, ascii_only: bool) -> None:
    found = read(json.dumps(value, ensure_ascii=ascii_only))
    assert found.value == value
    assert not found.breaches


@given(st.text(alphabet='{}[],:"\\u0019eE+-. tfn', max_size=30))
def test_the_oracles_reader_refuses_what_the_standard_library_refuses(text: str) -> None:
    def number_as_is(digits: str) -> str:
        return digits

    try:
        json.loads(text, parse_int=number_as_is, parse_float=number_as_is)
    except ValueError:
        with pytest.raises(NotJson):
            read(text)
    else:
        read(text)


@pytest.mark.parametrize(
    ("letters", "results", "lanes", "called", "right"),
    [
        (1, 0, 0, 0, True),
        (1, 1, 0, 0, False),
        (0, 1, 0, 0, False),
        (2, 0, 0, 0, False),
        (1, 0, 1, 0, False),
        (1, 0, 1, 1, False),
        (0, 0, 1, 1, False),
    ],
)
def test_a_record_without_ids_gets_a_dead_letter_and_no_result_and_comes_into_no_lane(
    monkeypatch: pytest.MonkeyPatch, letters: int, results: int, lanes: int, called: int, right: bool
) -> None:
    wire = unconnected(monkeypatch)
    sent = wiring.Sent(0, 7, 0)
    source = wire.source(sent)
    error = {"code": "invalid_json", "field": None, "hint": "h"}
    ids = {"tenant_id": "acme", "request_id": "r"}
    for topic, made_from, document, count in (
        ("dead-letters", source, {"dead_letter_id": source, "error": error}, letters),
        ("results", source, {**ids, "status": "rejected", "error": error}, results),
        ("lanes.sim", source, ids, lanes),
        ("results", "fairlane.inbox.sim/0/0", {**ids, "status": "succeeded", "error": None}, called),
    ):
        for _ in range(count):
            wire._take(written(topic, made_from, document))
    told = _Told(Input(b"{"), sent, Oracle().judge(b"{"))
    got, problem = Session(wire, 1)._got(source, told)
    assert (fits(got, told.verdict) and not problem) is right


def test_what_became_of_a_record_in_its_lane_is_told_though_the_oracle_reads_no_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, sent = unconnected(monkeypatch), wiring.Sent(0, 7, 0)
    ids = {"tenant_id": "acme", "request_id": "r"}
    wire._take(written("lanes.sim", wire.source(sent), ids))
    wire._take(written("results", "fairlane.inbox.sim/0/0", {**ids, "status": "succeeded", "error": None}))
    assert Session(wire, 1)._got(wire.source(sent), _Told(Input(b"{"), sent, Oracle().judge(b"{")))[0] == Way(ACCEPTED)


def test_a_record_that_was_let_in_and_refused_as_a_repeated_id_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, oracle, other = unconnected(monkeypatch), Oracle(), GOOD.replace(b'"x"', b'"y"')
    oracle.judge(GOOD)
    told = _Told(Input(other), wiring.Sent(0, 8, 0), oracle.judge(other))
    ids, source = {"tenant_id": "acme", "request_id": "r"}, "fairlane.requests/0/8"
    error = {"code": "request_id_reused", "field": "request_id", "hint": "h"}
    wire._take(written("lanes.sim", "fairlane.requests/0/7", ids))
    wire._take(written("results", "fairlane.inbox.sim/0/0", {**ids, "status": "succeeded", "error": None}))
    wire._take(written("dead-letters", source, {"dead_letter_id": source, "error": error}))
    assert Session(wire, 1)._got(source, told) == (Way(DEAD, "request_id_reused", "request_id"), "")
    wire._take(written("lanes.sim", source, ids))
    assert Session(wire, 1)._got(source, told)[0] == Way("twice")


def test_a_prompt_in_its_lane_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = unconnected(monkeypatch)
    document = {"tenant_id": "acme", "request_id": "r", "body": CANARIES[0].decode()}
    wire._take(written("lanes.sim", "fairlane.requests/0/7", document))
    assert wire.leaks() == []
    wire._take(written("results", "fairlane.requests/0/7", document))
    assert len(wire.leaks()) == 1


def unconnected(monkeypatch: pytest.MonkeyPatch) -> wiring.Wire:
    for client in ("AIOKafkaProducer", "AIOKafkaConsumer"):
        monkeypatch.setattr(wiring, client, lambda **_: None)
    return wiring.Wire("", "fairlane.")


def written(topic: str, made_from: str, document: Mapping[str, object]) -> SimpleNamespace:
    """A record of the chain."""
    headers = [("fairlane-source", made_from.encode())]
    return SimpleNamespace(
        topic=f"fairlane.{topic}", partition=0, offset=0, headers=headers, key=b"", value=orjson.dumps(document)
    )


def test_no_process_is_allowed_more_memory_than_the_design_says() -> None:
    assert set(PEAK_MB.values()) == {200.0}
