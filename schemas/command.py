"""``fairlane.command.v1``: what an operator or tenant asks about a running request."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fairlane.schemas.base import Identifier, WireModel

COMMAND_SCHEMA = "fairlane.command.v1"


class Command(WireModel):
    """Cancel a request that still waits; one already at a worker completes."""

    schema_: Literal["fairlane.command.v1"] = Field(default="fairlane.command.v1", alias="schema")
    command: Literal["cancel"]
    tenant_id: Identifier
    request_id: Identifier
