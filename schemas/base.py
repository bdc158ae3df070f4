"""The base of every wire model and the field types that several of them share."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

VISIBLE_ASCII = r"^[\x21-\x7e]+$"
"""Visible ASCII without the space: RFC 5234 VCHAR."""
NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]*$"
TOPIC_SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
DECIMAL = r"^[0-9]{1,7}(\.[0-9]{1,12})?$"
HTTP_ADDRESS = r"^https?://[^\s/@?#]+(/[^\s?#]*)?$"
"""No user, query or fragment: those are where people put secrets, and addresses travel on topics."""
ADDRESS_OR_ENV = rf"{HTTP_ADDRESS}|^env:[A-Za-z_][A-Za-z0-9_]*$"
ENV_REFERENCE = r"^env:[A-Za-z_][A-Za-z0-9_]*$"
PARAMETER_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

PATTERN_MEANINGS: dict[str, str] = {
    VISIBLE_ASCII: "must be visible ASCII characters without spaces",
    NO_CONTROLS: "must have no control characters",
    NAME: "must be letters, digits and . _ : - and start with a letter or digit",
    TOPIC_SAFE_NAME: "must be letters, digits and . _ - and start with a letter or digit",
    DECIMAL: 'must be a decimal number in quotes, for example "0.15"',
    HTTP_ADDRESS: "must be an http or https address without user, query or fragment",
    ADDRESS_OR_ENV: "must be an http or https address without user, query or fragment, or env:NAME, the variable "
    "that holds one where the file is applied",
    ENV_REFERENCE: "must be env:NAME, the name of the environment variable that holds the secret",
    PARAMETER_NAME: "must be the name of a request parameter: letters, digits and _",
}
"""What to tell a person whose text does not match; every pattern of a contract has a row."""

LABELS_MAX = 16
MAX_SAFE_INTEGER = 2**53 - 1
"""Largest integer a double holds exactly; Redis scripts compute in doubles (RFC 8259 section 6)."""


def at_most(entries: int) -> BeforeValidator:
    """Refuses a larger object before its entries are looked at: each bad one would cost an error of its own."""

    def bounded(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > entries:
            raise PydanticCustomError("too_long", "must have at most {max_length} entries", {"max_length": entries})
        return value

    return BeforeValidator(bounded)


class WireModel(BaseModel):
    """A value that crosses a topic: immutable, strict about types, closed to unknown fields."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="null",
        json_schema_serialization_defaults_required=True,  # what we write has every field
    )


_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_EARLIEST_YEAR, _LATEST_YEAR = 2000, 9998
_EARLIEST_MS, _LATEST_MS = 946_684_800_000, 253_370_764_799_999


_LATELY = 1024
"""Instants kept with their text: records of one batch share theirs, and each is written into several of them."""


def _instant(value: Any) -> datetime:
    """From RFC 3339 text (or a datetime of our own code) to UTC; far years are refused, so nothing overflows."""
    if isinstance(value, datetime):
        # Most are in UTC: our own code makes no others.
        return value if value.tzinfo is UTC and _year_ok(value) else _in_utc(value)
    if isinstance(value, str):
        return _from_text(value)
    # ValueError, for pydantic makes no error report of a TypeError.
    raise ValueError("must be an RFC 3339 time as a string, for example 2026-11-20T18:00:30Z")


@lru_cache(_LATELY)
def _from_text(value: str) -> datetime:
    if not _RFC_3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with a zone, for example 2026-11-20T18:00:30Z")
    try:
        instant = datetime.fromisoformat(value.upper())
    except ValueError:
        raise ValueError("must be a time that exists, for example 2026-11-20T18:00:30Z") from None
    return _in_utc(instant)


def _in_utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("must have a zone, for example a final Z")
    # Checked before the shift to UTC, which fails beyond year 9999, and after it, for that is what others read.
    if _year_ok(instant):
        in_utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
        if _year_ok(in_utc):
            return in_utc
    raise ValueError(f"must be a year from {_EARLIEST_YEAR} to {_LATEST_YEAR}")


def _year_ok(instant: datetime) -> bool:
    return _EARLIEST_YEAR <= instant.year <= _LATEST_YEAR


@lru_cache(_LATELY)
def format_timestamp(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, for example ``2026-11-20T18:00:30.000Z``."""
    in_utc = value if value.tzinfo is UTC else value.astimezone(UTC)
    return in_utc.isoformat("T", "milliseconds")[:-6] + "Z"


@lru_cache(_LATELY)
def timestamp_from_ms(milliseconds: int) -> datetime:
    """The instant a Kafka record timestamp (milliseconds since the epoch) stands for.

    A producer may stamp a record with any time, even one no contract allows; such a time becomes the
    nearest one that is allowed (the start of 2000, the end of 9998), so that records about it can be written.
    """
    return _EPOCH + min(max(milliseconds, _EARLIEST_MS), _LATEST_MS) * _MILLISECOND


def timestamp_to_ms(value: datetime) -> int:
    """Milliseconds since the epoch, rounded down."""
    return (value - _EPOCH) // _MILLISECOND  # not through a float: it loses a millisecond now and then


Timestamp = Annotated[
    datetime,
    PlainValidator(_instant),
    PlainSerializer(format_timestamp, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=VISIBLE_ASCII)]
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=255, pattern=VISIBLE_ASCII)]
NanoUsd = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER)]
"""An amount of money: an integer of 10^-9 US dollars."""
TokenCount = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER)]
Milliseconds = Annotated[float, Field(ge=0)]
LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=VISIBLE_ASCII)]
LabelValue = Annotated[str, Field(max_length=256, pattern=NO_CONTROLS)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=LABELS_MAX), at_most(LABELS_MAX)]
