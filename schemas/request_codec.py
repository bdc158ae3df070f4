"""From the bytes of a ``requests`` record to a :class:`Request`, or to an error that tells how to mend it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jiter
import orjson
from pydantic import TypeAdapter, ValidationError

from fairlane.schemas.base import Identifier
from fairlane.schemas.codec import DecodeError, parse_object, violation
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.request import REQUEST_SCHEMA, Request
from fairlane.schemas.shown_names import shown_name

READABLE_BYTES_MAX = 8 * 1024 * 1024
"""Above this, ids are not looked for: reading them would cost more than they are worth."""

_SCHEMA_NAME = REQUEST_SCHEMA.rpartition(".v")[0]
_ANOTHER_VERSION = re.compile(re.escape(_SCHEMA_NAME) + r"\.v[0-9]{1,9}")
# pydantic makes an error of each unknown field, and a record can hold a hundred thousand of them.
_FIELDS = frozenset(field.alias or name for name, field in Request.model_fields.items())
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


def decode_request(value: bytes | None, max_bytes: int) -> tuple[Request, dict[str, Any]]:
    """The request, and the document as the tenant sent it (its ``body`` goes to the provider).

    Raises :class:`DecodeError` with ``too_large``, ``invalid_json``, ``unsupported_version`` or
    ``schema_violation``. The error never holds input, but for names of unknown fields that read like words.
    """
    if value is None:
        raise DecodeError(error(ErrorCode.INVALID_JSON, "the record has no value (a tombstone)"))
    if len(value) > max_bytes:
        message = f"the value has {len(value)} bytes, the limit is {max_bytes}"
        raise DecodeError(error(ErrorCode.TOO_LARGE, message))
    document = parse_object(value)
    schema = document.get("schema")
    if schema != REQUEST_SCHEMA and isinstance(schema, str) and _ANOTHER_VERSION.fullmatch(schema):
        message = f"this installation reads {REQUEST_SCHEMA} only"
        raise DecodeError(error(ErrorCode.UNSUPPORTED_VERSION, message, field="schema"))
    if not document.keys() <= _FIELDS:
        unknown = next(name for name in document if name not in _FIELDS)
        message = "is not a field of this contract"
        raise DecodeError(error(ErrorCode.SCHEMA_VIOLATION, message, field=shown_name(unknown)))
    try:
        return Request.model_validate(document), document
    except ValidationError as failure:
        raise DecodeError(violation(failure)) from None


def fingerprint(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a decoded body; the order of its keys and its white space make no difference.

    ``1`` and ``1.0`` are different bodies: telling them apart is harmless, equating them is guesswork.
    """
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def readable_ids(value: bytes | None) -> tuple[str, str] | None:
    """``(tenant_id, request_id)`` of a record that may be invalid, if they can be read without doubt.

    Without doubt means: the value is one object, none of its own keys stands twice, and both ids are
    valid. What the object holds below may break the rules (NaN, a duplicate key, a lone surrogate).
    A value that is cut off, too large or nested too deeply for a plain parser has no readable ids.
    """
    tenant_id, request_id = readable_parts(value)
    return (tenant_id, request_id) if tenant_id is not None and request_id is not None else None


def readable_parts(value: bytes | None) -> tuple[str | None, str | None]:
    """``(tenant_id, request_id)`` as :func:`readable_ids`, each for itself: None where it cannot be read."""
    if value is None or len(value) > READABLE_BYTES_MAX:
        return None, None
    document = _lenient_object(value)
    if document is None:
        return None, None
    return _identifier(document.get("tenant_id")), _identifier(document.get("request_id"))


def _identifier(value: Any) -> str | None:
    try:
        return _IDENTIFIER.validate_python(value, strict=True)
    except ValidationError:
        return None


class _Pairs(list[tuple[str, Any]]):
    """The members of an object before it is known which keys are its own."""


def _lenient_object(value: bytes) -> Mapping[str, Any] | None:
    try:
        parsed = jiter.from_json(value, catch_duplicate_keys=True)
        return parsed if isinstance(parsed, dict) else None
    except ValueError:
        pass
    try:
        # No number matters here, and one of many digits is slow to convert.
        members = json.loads(
            value.decode("utf-8-sig"), object_pairs_hook=_Pairs, parse_int=_ignored, parse_float=_ignored
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, _Pairs):
        return None
    document = dict(members)
    return document if len(document) == len(members) else None


def _ignored(_digits: str) -> int:
    return 0
