"""Bytes to models and back. Decoding errors say what, where and how to mend it, and never echo input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jiter
import orjson
from pydantic import ValidationError

from fairlane.schemas.base import PATTERN_MEANINGS, WireModel
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.shown_names import shown_name

M = TypeVar("M", bound=WireModel)
_FIELD_MAX = 200
_BRANCH = "#"
"""Tags of union branches begin with this; they are no part of a path in the document."""

_MEANINGS: Mapping[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this contract",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "invalid_key": "has a key that is no string",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}
"""Sentences for pydantic's error types. Their figures come from the contract, never from the input."""

_EMPTY = frozenset({"string_too_short", "too_short"})
_OWN_TYPES = frozenset({"value_error", "part", "shape", "message_order", "one_deadline"})
"""Errors our validators raise; their texts are fixed, so they cannot hold input."""

_NOT_JSON: tuple[tuple[bytes, str], ...] = (
    (b"\xef\xbb\xbf", "the value begins with a byte-order mark"),
    (b"\xff\xfe", "the value looks like UTF-16"),
    (b"\xfe\xff", "the value looks like UTF-16"),
    (b"\x1f\x8b", "the value looks like gzip; let the Kafka producer compress, not the application"),
    (b"\x28\xb5\x2f\xfd", "the value looks like zstd; let the Kafka producer compress, not the application"),
    (b"\x80\x04", "the value looks like a Python pickle"),
    (b"\x80\x05", "the value looks like a Python pickle"),
    (b"\x00", "the value looks like a schema-registry format (Avro or Protobuf)"),
)
"""What other serializers begin with."""


class DecodeError(ValueError):
    """The bytes are not what the contract asks for; ``detail`` is ready for a result or dead letter."""

    def __init__(self, detail: ErrorDetail) -> None:
        super().__init__(f"{detail.code}: {detail.message}" + (f" (field {detail.field})" if detail.field else ""))
        self.detail = detail


def encode(model: WireModel) -> bytes:
    """Compact JSON with wire names; None members are kept, so that every field is always there."""
    return model.__pydantic_serializer__.to_json(model, by_alias=True)


def decode(model: type[M], value: bytes) -> M:
    """Strictly decode a record of our own topics; raises :class:`DecodeError`."""
    try:
        return model.model_validate_json(value)
    except ValidationError as failure:
        if failure.errors(include_url=False, include_input=False, include_context=False)[0]["type"] == "json_invalid":
            raise DecodeError(error(ErrorCode.INVALID_JSON, "the value is not valid JSON")) from None
        raise DecodeError(violation(failure)) from None


def decode_foreign(model: type[M], value: bytes) -> M:
    """Decode what a client wrote: :func:`parse_object`, then the contract. Raises :class:`DecodeError`."""
    document = parse_object(value)
    try:
        return model.model_validate(document)
    except ValidationError as failure:
        raise DecodeError(violation(failure)) from None


def parse_object(value: bytes) -> dict[str, Any]:
    """Parse one JSON object: UTF-8, no duplicate keys, no NaN or Infinity, bounded depth, numbers in range.

    Raises :class:`DecodeError` with ``invalid_json``; the message gives the position, not content.
    """
    try:
        parsed = jiter.from_json(value, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as failure:
        raise DecodeError(error(ErrorCode.INVALID_JSON, _json_message(value, str(failure)))) from None
    if not isinstance(parsed, dict):
        raise DecodeError(error(ErrorCode.INVALID_JSON, "the value is JSON, but not an object"))
    try:
        # jiter reads 1e999 as infinity and keeps integers of any size. orjson refuses the one when it
        # reads and the other when it writes, which our own stages will have to do.
        orjson.loads(value)
        orjson.dumps(parsed)
    except (orjson.JSONDecodeError, TypeError):
        message = "a number is beyond what a double or a 64-bit integer holds"
        raise DecodeError(error(ErrorCode.INVALID_JSON, message)) from None
    return parsed


def violation(failure: ValidationError, within: str = "") -> ErrorDetail:
    """The first violation as an :class:`ErrorDetail`: path, rule and how many more. Never shows input.

    ``within`` is the path of the validated value in its document. A name from the document stands in
    the path only if :func:`shown_name` lets it, else ``?`` stands there.
    """
    items = failure.errors(include_url=False, include_input=False)
    # Only the first is told: to judge the names of all of a record's hundred thousand fields would take a minute.
    field, message = _problem(items[0], within)
    if len(items) > 1:
        message += f" (and {len(items) - 1} more)"
    return error(ErrorCode.SCHEMA_VIOLATION, message, field=field)


def violations(failure: ValidationError, within: str = "") -> list[tuple[str | None, str]]:
    """All violations as (path, rule), in the order of the contract's fields; see :func:`violation`."""
    return [_problem(item, within) for item in failure.errors(include_url=False, include_input=False)]


def _problem(item: Any, within: str) -> tuple[str | None, str]:
    context = item.get("ctx", {})
    parts = [within] if within else []
    path = (part for part in item["loc"] if not _is_branch(part))
    parts += [shown_name(part) if isinstance(part, str) else str(part) for part in path]
    parts += [str(context["at"])] if "at" in context and item["type"] in _OWN_TYPES else []
    return ".".join(parts)[:_FIELD_MAX] or None, _rule(item["type"], item["msg"], context)


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (part.startswith(_BRANCH) or part == "[key]")


def _rule(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "string_pattern_mismatch":
        return PATTERN_MEANINGS.get(context["pattern"], "has a form that is not allowed")
    if kind in _OWN_TYPES:
        return message.removeprefix("Value error, ")
    if kind in _EMPTY and context["min_length"] == 1:
        return "must not be empty"
    meaning = _MEANINGS.get(kind)
    if meaning is None:
        return "is not valid"
    return meaning.format_map({name: _figure(value) for name, value in context.items()})


def _figure(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _json_message(value: bytes, reason: str) -> str:
    """jiter's text without what it quotes: only of a duplicate key does it tell the key."""
    if not value.strip():
        return "the value is empty"
    for magic, meaning in _NOT_JSON:
        if value.startswith(magic):
            return meaning
    if reason.startswith("Detected duplicate key"):
        return "an object has the same key twice" + reason[reason.rindex(" at line") :]
    return reason
