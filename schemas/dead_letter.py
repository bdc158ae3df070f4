"""``fairlane.dead-letter.v1``: a record that can get no result, and where its bytes are.

The payload itself is not copied: it stays in its source topic, so a dead letter is small and can
leak nothing. ``fairlane dlq show`` and ``redrive`` read it from there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fairlane.schemas.base import Timestamp, WireModel
from fairlane.schemas.errors import ErrorDetail

DEAD_LETTER_SCHEMA = "fairlane.dead-letter.v1"


class DeadLetter(WireModel):
    """``dead_letter_id`` is ``<topic>/<partition>/<offset>`` of the source record."""

    schema_: Literal["fairlane.dead-letter.v1"] = Field(default="fairlane.dead-letter.v1", alias="schema")
    dead_letter_id: str
    event_time: Timestamp
    stage: str
    source_topic: str
    source_partition: Annotated[int, Field(ge=0)]
    source_offset: Annotated[int, Field(ge=0)]
    tenant_id: str | None = None
    request_id: str | None = None
    error: ErrorDetail
    payload_bytes: Annotated[int, Field(ge=0)]
    payload_sha256: str
    redriven_at: Timestamp | None = None
    config_version: str
