"""``fairlane.chunk.v1``: one piece of a streamed answer, on the ``chunks`` topic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from fairlane.schemas.base import Identifier, Timestamp, WireModel

CHUNK_SCHEMA = "fairlane.chunk.v1"


class Chunk(WireModel):
    """``sequence`` counts from 0 within an attempt; a higher ``attempt`` replaces all before it."""

    schema_: Literal["fairlane.chunk.v1"] = Field(default="fairlane.chunk.v1", alias="schema")
    request_id: Identifier
    tenant_id: Identifier
    attempt: Annotated[int, Field(ge=1)]
    sequence: Annotated[int, Field(ge=0)]
    event_time: Timestamp
    delta: dict[str, Any]
    last: bool = False
