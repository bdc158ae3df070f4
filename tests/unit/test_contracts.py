"""The published documents say what the code does, and bytes once written stay readable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from fairlane.schemas.attempt import ATTEMPT_SCHEMA
from fairlane.schemas.base import PATTERN_MEANINGS
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.errors import ERRORS, ErrorCode
from fairlane.schemas.examples import examples
from fairlane.schemas.generate import documents, main
from fairlane.schemas.json_schema import CONTRACTS, Contract, example_of, json_schema
from fairlane.schemas.topics import TOPICS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
PUBLISHED = ROOT / "docs" / "contracts"
EXAMPLES = examples()


# --- golden bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_has_the_bytes_it_always_had(name: str) -> None:
    assert encode(EXAMPLES[name]) == (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_golden_bytes_decode_and_encode_to_themselves(name: str) -> None:
    golden = (GOLDEN / f"{name}.json").read_bytes()
    assert encode(decode(type(EXAMPLES[name]), golden)) == golden


def test_every_golden_file_has_its_example() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(EXAMPLES)


def test_every_topic_has_an_example_of_its_value() -> None:
    assert {spec.model for spec in TOPICS} <= {type(example) for example in EXAMPLES.values()}


# --- documents --------------------------------------------------------------------------------------


def test_the_published_documents_are_current() -> None:
    generated = documents()
    published = {path.name: path.read_text() for path in PUBLISHED.iterdir()}
    assert set(published) == set(generated), "run `python -m fairlane.schemas.generate docs/contracts`"
    stale = [name for name, text in generated.items() if published[name] != text]
    assert stale == [], "run `python -m fairlane.schemas.generate docs/contracts`"


def test_generating_writes_all_documents_and_removes_schemas_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "gone.schema.json").write_text("{}")
    (tmp_path / "README.md").write_text("stays")
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*documents(), "README.md"}


def test_generating_without_a_folder_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_json_schemas_are_valid_and_take_their_examples(contract: Contract) -> None:
    schema = json_schema(contract, EXAMPLES)
    validator = jsonschema.Draft202012Validator
    validator.check_schema(schema)
    for example in EXAMPLES.values():
        if isinstance(example, contract.model):
            validator(schema).validate(orjson.loads(encode(example)))
    validator(schema).validate(example_of(contract, EXAMPLES))


@pytest.mark.parametrize("name", ["tenants", "catalog"])
def test_the_example_files_are_as_their_json_schemas_say(name: str) -> None:
    contract = next(contract for contract in CONTRACTS if contract.name == f"{name}-file")
    # The base loader keeps scalars as text; only the times must be, so read them as our own loader does.
    from fairlane.agents.config_file import read_catalog_file, read_tenants_file

    text = (ROOT / "examples" / f"{name}.yaml").read_text()
    address = {"FAIRLANE_SIMULATOR_URL": "http://127.0.0.1:9999/v1"}
    file = read_tenants_file(text, name) if name == "tenants" else read_catalog_file(text, name, address.get)
    document = file.content.model_dump(mode="json", by_alias=True, exclude_unset=True)
    jsonschema.Draft202012Validator(json_schema(contract, EXAMPLES)).validate(document)


@pytest.mark.parametrize(
    "wrong",
    [{"tenants": [{"tenant_id": "a b"}]}, {"tenants": [{"weight": 1}]}, {"tenants": [{"tenant_id": "a", "x": 1}]}],
)
def test_json_schemas_refuse_what_the_code_refuses(wrong: dict[str, Any]) -> None:
    contract = next(contract for contract in CONTRACTS if contract.name == "tenants-file")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema(contract, EXAMPLES)).validate(wrong)


def patterns(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("pattern"), str):
            yield value["pattern"]
        for member in value.values():
            yield from patterns(member)
    elif isinstance(value, list):
        for member in value:
            yield from patterns(member)


def test_every_pattern_of_a_contract_has_words_for_people() -> None:
    used = {pattern for contract in CONTRACTS for pattern in patterns(json_schema(contract, EXAMPLES))}
    assert used == set(PATTERN_MEANINGS)


def test_every_error_code_has_its_row() -> None:
    assert set(ERRORS) == set(ErrorCode)
    page = documents()["errors.md"]
    assert all(f"| `{code}` |" in page for code in ErrorCode)


def test_the_topics_page_has_every_topic() -> None:
    page = documents()["topics.md"]
    assert all(f"| `{spec.name}` |" in page for spec in TOPICS)
    assert f"`{ATTEMPT_SCHEMA}`" in page


# --- AsyncAPI 3.0 -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(documents()["asyncapi.yaml"])
    return document


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def resolved(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    target: Any = document
    for part in reference[2:].split("/"):
        target = target[part]
    return target


def test_asyncapi_has_the_fields_its_specification_requires(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(asyncapi["info"])
    for channel in asyncapi["channels"].values():
        assert channel["address"].startswith("fairlane.")
        assert channel["messages"]
    for operation in asyncapi["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert set(operation["channel"]) == {"$ref"}
    for message in asyncapi["components"]["messages"].values():
        assert message["headers"]["type"] == "object"
        assert message["payload"]["$ref"].startswith("#/components/schemas/")


def test_asyncapi_has_each_public_topic_and_no_other(asyncapi: dict[str, Any]) -> None:
    assert set(asyncapi["channels"]) == {spec.name for spec in TOPICS if spec.public}
    for spec in TOPICS:
        if spec.public:
            kafka = asyncapi["channels"][spec.name]["bindings"]["kafka"]
            assert kafka["partitions"] == spec.partitions
            assert kafka["topicConfiguration"]["cleanup.policy"] == [spec.cleanup]


def test_every_reference_of_asyncapi_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    for reference in references(asyncapi):
        assert resolved(asyncapi, reference)


def test_operations_name_messages_of_their_own_channel(asyncapi: dict[str, Any]) -> None:
    for operation in asyncapi["operations"].values():
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_examples_in_asyncapi_are_as_their_schemas_say(asyncapi: dict[str, Any]) -> None:
    for message in asyncapi["components"]["messages"].values():
        schema = {**asyncapi, "$ref": message["payload"]["$ref"]}
        for example in message["examples"]:
            jsonschema.Draft202012Validator(schema).validate(example["payload"])
