"""An AsyncAPI 3.0 document of the public topics, from the topic registry and the contracts.

https://www.asyncapi.com/docs/reference/specification/v3.0.0, Kafka bindings 0.5.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from fairlane.schemas import headers
from fairlane.schemas.base import WireModel
from fairlane.schemas.json_schema import CONTRACTS, Contract, Mode, example_of, plain_markup
from fairlane.schemas.topics import DEFAULT_PREFIX, TOPICS, TopicSpec

_BINDING_VERSION = "0.5.0"
_TEXT: dict[str, Any] = {"type": "string"}
_CLOUD_EVENT_HEADERS: Mapping[str, dict[str, Any]] = {
    "ce_specversion": {"type": "string", "const": "1.0"},
    "ce_id": {**_TEXT, "description": "The id of the event; with ce_source unique."},
    "ce_type": {**_TEXT, "description": "The schema of the value, for example fairlane.result.v1."},
    "ce_source": {**_TEXT, "description": "The stage that wrote the record."},
    "ce_time": {"type": "string", "format": "date-time"},
    "content-type": {"type": "string", "const": "application/json"},
}
_TRACE_HEADER: dict[str, Any] = {**_TEXT, "description": "W3C Trace Context; passed on from the request."}
_OWN_HEADERS: Mapping[str, dict[str, Any]] = {
    headers.SOURCE: {**_TEXT, "description": "topic/partition/offset of the record this one was made from."},
    headers.SLOT: {**_TEXT, "description": "pool/group/input_tokens/output_tokens of the slot a result frees."},
}
_TENANT_WRITES = frozenset({"requests", "commands", "tenants", "catalog"})


def asyncapi(examples: Mapping[str, WireModel], version: str) -> dict[str, Any]:
    """The document; ``version`` is that of the installation. Addresses carry the default prefix."""
    public = [spec for spec in TOPICS if spec.public]
    contracts = {spec.name: _contract(spec) for spec in public}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fairlane",
            "version": version,
            "description": (
                "LLM requests in, results out, over Kafka. Values are UTF-8 JSON. Addresses begin with the "
                f"setting topic_prefix, {DEFAULT_PREFIX} unless changed."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {spec.name: _channel(spec, contracts[spec.name]) for spec in public},
        "operations": {_operation_name(spec): _operation(spec, contracts) for spec in public},
        "components": {
            "messages": {
                contract.name: _message(contract, spec, examples)
                for spec, contract in ((spec, contracts[spec.name]) for spec in public)
            },
            "schemas": _schemas(list(contracts.values())),
        },
    }


def _contract(spec: TopicSpec) -> Contract:
    return next(contract for contract in CONTRACTS if contract.model is spec.model)


def _operation_name(spec: TopicSpec) -> str:
    words = spec.name.split("-")
    verb = "receive" if spec.name in _TENANT_WRITES else "send"
    return verb + "".join(word.capitalize() for word in words)


def _channel(spec: TopicSpec, contract: Contract) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": [spec.cleanup]}
    if spec.retention_ms is not None:
        configuration["retention.ms"] = spec.retention_ms
    return {
        "address": spec.full_name(DEFAULT_PREFIX),
        "description": spec.purpose,
        "messages": {contract.name: {"$ref": f"#/components/messages/{contract.name}"}},
        "bindings": {
            "kafka": {
                "partitions": spec.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": _BINDING_VERSION,
            }
        },
    }


def _operation(spec: TopicSpec, contracts: Mapping[str, Contract]) -> dict[str, Any]:
    received = spec.name in _TENANT_WRITES
    operation: dict[str, Any] = {
        "action": "receive" if received else "send",
        "channel": {"$ref": f"#/channels/{spec.name}"},
        "summary": spec.purpose,
        "messages": [{"$ref": f"#/channels/{spec.name}/messages/{contracts[spec.name].name}"}],
    }
    if spec.name == "requests":
        operation["reply"] = {
            "channel": {"$ref": "#/channels/results"},
            "messages": [{"$ref": f"#/channels/results/messages/{contracts['results'].name}"}],
        }
    return operation


def _message(contract: Contract, spec: TopicSpec, examples: Mapping[str, WireModel]) -> dict[str, Any]:
    received = spec.name in _TENANT_WRITES
    own = {} if received else dict(_OWN_HEADERS)
    if spec.name != "results":
        own.pop(headers.SLOT, None)
    if spec.name == "requests":
        own[headers.REDRIVE] = {**_TEXT, "description": "The dead letter an operator redrove this request from."}
    return {
        "name": contract.name,
        "title": contract.name.replace("-", " ").capitalize(),
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "description": "CloudEvents 1.0 binary mode; optional." if received else "CloudEvents 1.0 binary mode.",
            "properties": {**_CLOUD_EVENT_HEADERS, headers.TRACEPARENT: _TRACE_HEADER, **own},
        },
        "payload": {"$ref": f"#/components/schemas/{contract.model.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": spec.key}, "bindingVersion": _BINDING_VERSION}},
        "examples": [{"name": contract.example, "payload": example_of(contract, examples)}],
    }


def _schemas(contracts: list[Contract]) -> dict[str, Any]:
    wanted: list[tuple[type[WireModel], Mode]] = [(contract.model, contract.mode) for contract in contracts]
    _, definitions = models_json_schema(wanted, by_alias=True, ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = plain_markup(definitions["$defs"])
    return schemas
