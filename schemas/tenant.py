"""``fairlane.tenant.v1``: one tenant, as written in tenants.yaml and kept on the ``tenants`` topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from fairlane.schemas.base import VISIBLE_ASCII, Identifier, Labels, WireModel

TENANT_SCHEMA = "fairlane.tenant.v1"
MAX_UNDISPATCHED_DEFAULT = 1000

ModelPattern = Annotated[str, Field(min_length=1, max_length=128, pattern=VISIBLE_ASCII)]


class TenantStatus(StrEnum):
    """A suspended tenant's new requests are rejected; what was admitted completes."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Tenant(WireModel):
    """``weight``: share of a pool against other waiting tenants. ``models``: shell-style patterns."""

    schema_: Literal["fairlane.tenant.v1"] = Field(default="fairlane.tenant.v1", alias="schema")
    tenant_id: Identifier
    status: Annotated[TenantStatus, Field(strict=False)] = TenantStatus.ACTIVE
    weight: Annotated[float, Field(gt=0, le=10_000)] = 1
    models: Annotated[list[ModelPattern], Field(min_length=1, max_length=1000)] = Field(default_factory=lambda: ["*"])
    max_undispatched: Annotated[int, Field(ge=1, le=100_000)] = MAX_UNDISPATCHED_DEFAULT
    labels: Labels = Field(default_factory=dict)


class TenantsFile(WireModel):
    """The file people write: ``tenants: [...]``."""

    tenants: list[Tenant]
