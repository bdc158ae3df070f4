"""Files people write are refused with the line, the field and the rule, before anything is applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlane.agents.config_file import FILE_BYTES_MAX, read_catalog_file, read_tenants_file
from fairlane.devstack.defaults import default_catalog, default_tenants
from fairlane.errors import Reject

ROOT = Path(__file__).parents[2]
CATALOG = """\
providers:
  - {provider: sim, base_url: "http://127.0.0.1:9999/v1"}
pools:
  - {pool: sim, slots: 8}
models:
  - model: small
    provider: sim
    pool: sim
    context_tokens: 1000
    max_output_tokens: 100
    prices:
      - {from: 2026-11-01T00:00:00Z, input: "0.15", output: "0.60"}
routes:
  auto: [small]
"""


def tenants_refusal(text: str) -> str:
    with pytest.raises(Reject) as refusal:
        read_tenants_file(text, "tenants.yaml")
    return str(refusal.value)


def catalog_refusal(text: str) -> str:
    with pytest.raises(Reject) as refusal:
        read_catalog_file(text, "catalog.yaml")
    return str(refusal.value)


@pytest.mark.parametrize("name", ["tenants.yaml", "catalog.yaml"])
def test_the_commented_examples_are_valid(name: str) -> None:
    text = (ROOT / "examples" / name).read_text()
    if name == "tenants.yaml":
        read_tenants_file(text, name)
    else:
        read_catalog_file(text, name, {"FAIRLANE_SIMULATOR_URL": "http://127.0.0.1:9999/v1"}.get)


def test_the_packaged_defaults_are_valid_and_name_the_tenants_of_the_examples() -> None:
    tenants = read_tenants_file(default_tenants(), "defaults").content.tenants
    examples = read_tenants_file((ROOT / "examples/tenants.yaml").read_text(), "examples").content.tenants
    assert [tenant.tenant_id for tenant in tenants] == [tenant.tenant_id for tenant in examples]
    catalog = read_catalog_file(default_catalog("http://127.0.0.1:4711/v1"), "defaults").content
    assert catalog.providers[0].base_url == "http://127.0.0.1:4711/v1"
    assert {"auto", "fast", "best"} == set(catalog.routes)
    assert {name for models in catalog.routes.values() for name in models} <= {m.model for m in catalog.models}
    assert {m.pool for m in catalog.models} == {pool.pool for pool in catalog.pools}
    assert {m.provider for m in catalog.models} == {provider.provider for provider in catalog.providers}


def test_defaults_are_filled_in() -> None:
    tenant = read_tenants_file("tenants: [{tenant_id: acme}]", "tenants.yaml").content.tenants[0]
    assert (tenant.status, tenant.weight, tenant.models, tenant.max_undispatched) == ("active", 1, ["*"], 1000)


def test_a_wrong_value_is_told_with_line_field_and_rule() -> None:
    text = "tenants:\n  - tenant_id: acme\n    weight: -1\n"
    assert tenants_refusal(text) == "tenants.yaml:3: tenants[0].weight must be greater than 0"


def test_a_missing_field_is_told_at_its_object() -> None:
    text = "tenants:\n  - tenant_id: acme\n  - weight: 2\n"
    assert tenants_refusal(text) == "tenants.yaml:3: tenants[1].tenant_id is required"


def test_an_unknown_field_is_told_at_its_line() -> None:
    text = "tenants:\n  - tenant_id: acme\n    wieght: 2\n"
    assert tenants_refusal(text) == "tenants.yaml:3: tenants[0].wieght is not a field of this contract"


def test_all_problems_are_told_at_once() -> None:
    text = "tenants:\n  - tenant_id: a b\n    weight: -1\n"
    assert tenants_refusal(text) == (
        "tenants.yaml has 2 problems:\n"
        "  tenants.yaml:2: tenants[0].tenant_id must be visible ASCII characters without spaces\n"
        "  tenants.yaml:3: tenants[0].weight must be greater than 0"
    )


def test_a_key_that_stands_twice_is_refused() -> None:
    text = "tenants:\n  - tenant_id: acme\n    weight: 1\n    weight: 2\n"
    assert tenants_refusal(text) == "tenants.yaml:4: the key weight stands twice in one object; keep one of them"


def test_a_name_that_stands_twice_is_refused_with_both_places() -> None:
    text = "tenants:\n  - tenant_id: acme\n  - tenant_id: acme\n"
    assert tenants_refusal(text) == "tenants.yaml:3: tenants[1].tenant_id is the same as tenants[0]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- tenant_id: acme", "must be an object"),
        ("tenants: {", "not valid YAML"),
        ("tenants: []\n---\ntenants: []", "not valid YAML"),
        ("tenants: !!python/object:os.system []", "not valid YAML"),
        ("tenants: *nobody", "not valid YAML"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("tenants: \x00", "not valid YAML"),
        ("[" * 100_000, "nested deeper than 50 levels"),
        ("tenants: " + "[" * 60 + "]" * 60, "nested deeper than 50 levels"),
        ("1: 2", "has a key that is no string"),
    ],
)
def test_what_is_no_tenants_file_is_refused_in_one_sentence(text: str, message: str) -> None:
    assert message in tenants_refusal(text)


def test_a_file_larger_than_any_that_people_write_is_not_parsed() -> None:
    assert "larger than 16777216 bytes" in tenants_refusal("#" * (FILE_BYTES_MAX + 1))


@pytest.mark.parametrize("scalar", ["no", "on", "1:30", "0o17", "010", "1_000", "2026-11-01", ".inf", "0x1F"])
def test_scalars_that_yaml_1_1_converts_stay_text(scalar: str) -> None:
    tenant = read_tenants_file(f"tenants: [{{tenant_id: {scalar}}}]", "tenants.yaml").content.tenants[0]
    assert tenant.tenant_id == scalar


@pytest.mark.parametrize("scalar", ["true", "12", "1.5", "null", "1e3"])
def test_a_tenant_id_that_yaml_does_not_read_as_text_is_refused(scalar: str) -> None:
    assert "must be a string" in tenants_refusal(f"tenants: [{{tenant_id: {scalar}}}]")


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_nothing_after_a_name_means_null(nothing: str) -> None:
    text = CATALOG.replace('{provider: sim, base_url: "http://127.0.0.1:9999/v1"}',
                           f'provider: sim\n    base_url: "http://127.0.0.1:9999/v1"\n    key: {nothing}')  # fmt: skip
    assert read_catalog_file(text, "catalog.yaml").content.providers[0].key is None


@pytest.mark.parametrize(
    ("scalar", "weight"), [("2", 2.0), ("0.5", 0.5), (".5", 0.5), ("1e3", 1000.0), ("1.5e1", 15.0)]
)
def test_numbers_are_read_as_numbers(scalar: str, weight: float) -> None:
    text = f"tenants: [{{tenant_id: a, weight: {scalar}}}]"
    assert read_tenants_file(text, "tenants.yaml").content.tenants[0].weight == weight


def test_anchors_and_merges_may_shorten_a_file() -> None:
    text = "tenants:\n  - &base {tenant_id: a, weight: 3}\n  - {<<: *base, tenant_id: b}\n"
    tenants = read_tenants_file(text, "tenants.yaml").content.tenants
    assert [(tenant.tenant_id, tenant.weight) for tenant in tenants] == [("a", 3), ("b", 3)]


def test_a_valid_catalog_is_read() -> None:
    content = read_catalog_file(CATALOG, "catalog.yaml").content
    assert content.models[0].prices[0].input == "0.15"
    assert content.routes == {"auto": ["small"]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'input: "0.15"',
            "input: 0.15",
            "catalog.yaml:12: models[0].prices[0].input must be a decimal number in quotes",
        ),
        ('input: "0.15"', 'input: "0.1234567891"', "models[0].prices[0].input must have at most 9 decimals"),
        ('input: "0.15"', 'input: "-1"', "models[0].prices[0].input must be a decimal number in quotes"),
        ('input: "0.15"', 'input: "0.15", cached_input: "0.2"', "cached_input must not be above input"),
        ("2026-11-01T00:00:00Z", "2026-11-01", "models[0].prices[0].from must be an RFC 3339 time"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00.5Z", "from must be a whole second"),
        ("slots: 8", "slots: true", "catalog.yaml:4: pools[0].slots must be a whole number"),
        ("slots: 8", "slots: 0", "pools[0].slots must be at least 1"),
        ("pool: sim,", "pool: a/b,", "pools[0].pool must be letters, digits"),
        ("http://127.0.0.1:9999/v1", "http://user:hunter2@host/v1", "base_url must be an http or https address"),
        ("http://127.0.0.1:9999/v1", "http://host/v1?key=hunter2", "base_url must be an http or https address"),
        ('9999/v1"', '9999/v1", key: sk-hunter2', "providers[0].key must be env:NAME"),
        ("context_tokens: 1000", "context_tokens: 9000000000000000", "must cost less than 9007199 USD"),
        ("auto: [small]", "small: [small]", "catalog.yaml:14: routes.small has the name of a model"),
        ("auto: [small]", "auto: [small, small]", "routes.auto[1] is the same as routes.auto[0]"),
        ("auto: [small]", "auto: []", "routes.auto must not be empty"),
    ],
)
def test_a_wrong_catalog_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    assert old in CATALOG
    refusal = catalog_refusal(CATALOG.replace(old, new))
    assert message in refusal
    assert "hunter2" not in refusal


def test_pools_whose_topics_kafka_would_confuse_are_refused() -> None:
    text = CATALOG.replace(
        "{pool: sim, slots: 8}", "{pool: sim, slots: 8}\n  - {pool: a.b, slots: 1}\n  - {pool: a_b, slots: 1}"
    )
    assert catalog_refusal(text) == "catalog.yaml:6: pools[2].pool is the same but for . and _ as pools[1]"


def test_prices_out_of_order_are_refused() -> None:
    text = CATALOG.replace(
        "    prices:\n",
        '    prices:\n      - {from: 2027-01-01T00:00:00Z, input: "1", output: "1"}\n',
    )
    assert "prices must be in order of their from dates" in catalog_refusal(text)


def test_an_address_may_stand_in_a_variable_of_the_shell_that_applies() -> None:
    text = CATALOG.replace('"http://127.0.0.1:9999/v1"', "env:MODELS_URL")
    file = read_catalog_file(text, "catalog.yaml", {"MODELS_URL": " http://127.0.0.1:8000/v1 "}.get)
    assert file.content.providers[0].base_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "names the variable MODELS_URL, which is not set where the file is applied"),
        ("", "names the variable MODELS_URL, which is not set where the file is applied"),
        (
            "http://me:sesame@127.0.0.1/v1",
            "names the variable MODELS_URL, whose value must be an http or https address",
        ),
    ],
)
def test_an_address_in_a_variable_is_checked_as_any_and_its_value_is_not_told(value: str | None, rule: str) -> None:
    text = CATALOG.replace('"http://127.0.0.1:9999/v1"', "env:MODELS_URL")
    with pytest.raises(Reject) as refusal:
        read_catalog_file(text, "catalog.yaml", {"MODELS_URL": value}.get)
    assert str(refusal.value).startswith(f"catalog.yaml:2: providers[0].base_url {rule}")
    assert "sesame" not in str(refusal.value)


@pytest.mark.parametrize("amount", ["0.15", "1", "true"])
def test_a_price_without_quotes_is_told_of_the_quotes(amount: str) -> None:
    refusal = catalog_refusal(CATALOG.replace('input: "0.15"', f"input: {amount}"))
    assert 'models[0].prices[0].input must be a decimal number in quotes, for example "0.15"' in refusal
