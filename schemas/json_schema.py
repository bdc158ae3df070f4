"""JSON Schema (draft 2020-12) of every public contract and of the files people write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fairlane.schemas.attempt import Attempt
from fairlane.schemas.base import WireModel
from fairlane.schemas.catalog import CatalogEntry, CatalogFile
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.command import Command
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision
from fairlane.schemas.request import Request
from fairlane.schemas.result import Result
from fairlane.schemas.tenant import Tenant, TenantsFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Mode = Literal["validation", "serialization"]


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract by its file name. ``mode``: what we accept (defaults optional) or what we write (all there)."""

    name: str
    model: type[WireModel]
    mode: Mode
    example: str


CONTRACTS: tuple[Contract, ...] = (
    Contract("request", Request, "validation", "request"),
    Contract("result", Result, "serialization", "result"),
    Contract("decision", Decision, "serialization", "decision"),
    Contract("attempt", Attempt, "serialization", "attempt"),
    Contract("chunk", Chunk, "serialization", "chunk"),
    Contract("command", Command, "validation", "command"),
    Contract("dead-letter", DeadLetter, "serialization", "dead-letter"),
    Contract("tenant", Tenant, "serialization", "tenant"),
    Contract("catalog", CatalogEntry, "serialization", "catalog-model"),
    Contract("tenants-file", TenantsFile, "validation", "tenants-file"),
    Contract("catalog-file", CatalogFile, "validation", "catalog-file"),
)


def json_schema(contract: Contract, examples: Mapping[str, WireModel]) -> dict[str, Any]:
    """The schema of one contract as a document of its own."""
    schema = contract.model.model_json_schema(by_alias=True, mode=contract.mode)
    return {
        "$schema": DIALECT,
        "$id": f"{contract.name}.schema.json",
        **plain_markup(schema),
        "examples": [example_of(contract, examples)],
    }


def example_of(contract: Contract, examples: Mapping[str, WireModel]) -> Any:
    """The contract's example; of what others write, only the fields a person would write."""
    return examples[contract.example].model_dump(
        mode="json", by_alias=True, exclude_unset=contract.mode == "validation"
    )


def plain_markup(value: Any) -> Any:
    """Docstrings become descriptions: their markup for code as readers of JSON Schema know it."""
    if isinstance(value, dict):
        return {
            name: item.replace("``", "`") if name == "description" and isinstance(item, str) else plain_markup(item)
            for name, item in value.items()
        }
    return [plain_markup(item) for item in value] if isinstance(value, list) else value
