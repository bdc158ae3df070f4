"""Internal contract of the ``fairlane-joined`` header: whose answer is waited for and what that repeats."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fairlane.schemas.base import Identifier, Labels, WireModel
from fairlane.schemas.headers import PASSED_ON_BYTES_MAX
from fairlane.schemas.job import EpochMs


class Asking(WireModel):
    """The parts of the asking request that its answer repeats; ``identity`` is a ``fairlane-identity`` header."""

    tenant_id: Identifier
    request_id: Identifier
    idempotency_key: str | None
    priority: str | None
    labels: Labels
    received_ms: EpochMs
    identity: Annotated[str, Field(max_length=PASSED_ON_BYTES_MAX)]


class Joining(WireModel):
    """The header: ``answering`` is the JSON of an :class:`Asking`, as the admission store keeps it. ``owner`` is the
    request whose answer is waited for; empty where that was answered before a lost decision is written again.
    """

    owner: Annotated[str, Field(max_length=128)]
    answering: str
