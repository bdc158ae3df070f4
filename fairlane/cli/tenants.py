"""``fairlane tenants``: apply, list and compare tenants, and see what they use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.config_commands import DRY_RUN_OPTION, FILE_OPTION, PRUNE_OPTION
from fairlane.cli.display import JSON_OPTION, print_objects

if TYPE_CHECKING:
    from fairlane.cli.config_commands import Planner


@click.group("tenants", epilog="Example:  fairlane tenants apply -f examples/tenants.yaml")
def command() -> None:
    """Tenants are files under version control, applied to the log; every stage follows them live."""


@command.command("apply", epilog="Example:  fairlane tenants apply -f tenants.yaml --dry-run")
@FILE_OPTION
@PRUNE_OPTION
@DRY_RUN_OPTION
@JSON_OPTION
def apply(path: str, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Apply a tenants file.

    The whole file is checked before anything is written; then the entries that differ are.
    """
    from fairlane.cli.config_commands import apply_plan

    planner = _planner(path)
    asyncio.run(apply_plan("tenants", planner, prune=prune, dry_run=dry_run, as_json=as_json))


@command.command("diff", epilog="Example:  fairlane tenants diff -f tenants.yaml")
@FILE_OPTION
@JSON_OPTION
def diff(path: str, as_json: bool) -> int:
    """Compare a tenants file with what is applied.

    Exits 1 if they differ.
    """
    from fairlane.cli.config_commands import difference

    return asyncio.run(difference(_planner(path), as_json=as_json))


@command.command("list", epilog="Example:  fairlane tenants list --json")
@JSON_OPTION
def list_tenants(as_json: bool) -> None:
    """List the tenants as applied, defaults filled in."""
    tenants = asyncio.run(_applied_tenants())
    if not as_json:
        for tenant in tenants:
            tenant["models"] = ", ".join(tenant["models"])
            tenant["labels"] = ", ".join(f"{name}={value}" for name, value in tenant["labels"].items()) or None
    columns = ["tenant_id", "status", "weight", "models", "max_undispatched", "labels"]
    print_objects(tenants, columns, as_json=as_json)


@command.command("usage", epilog="Example:  fairlane tenants usage --json")
@JSON_OPTION
def usage(as_json: bool) -> None:
    """Show what each tenant uses now.

    Money held and spent in nano-dollars, requests that wait (undispatched) and that are at a worker (in flight).
    """
    columns = ["tenant_id", "held_nano_usd", "spent_nano_usd", "undispatched", "in_flight"]
    print_objects(asyncio.run(_usage()), columns, as_json=as_json)


def _planner(path: str) -> Planner:
    from fairlane.agents.config_file import read_tenants_file
    from fairlane.agents.config_plan import plan_tenants
    from fairlane.cli.config_commands import file_text

    file = read_tenants_file(*file_text(path))
    return lambda applied, prune, _now_ms: plan_tenants(
        file, applied.fold.tenants, rewrite=applied.unreadable, prune=prune
    )


async def _applied_tenants() -> list[dict[str, Any]]:
    from fairlane.cli.config_commands import applied_now, names_of
    from fairlane.cli.connections import log_reader, resolved_settings

    settings = resolved_settings("kafka_bootstrap")
    async with log_reader(settings) as reader:
        applied = await applied_now(reader, names_of(settings.topic_prefix))
    return [
        tenant.model_dump(mode="json", by_alias=True, exclude={"schema_"})
        for _, tenant in sorted(applied.fold.tenants.items())
    ]


async def _usage() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from fairlane.adapters.redis_admission import RedisAdmissionStore
    from fairlane.cli.connections import resolved_settings

    settings = resolved_settings("kafka_bootstrap", "redis_url")
    tenant_ids = [tenant["tenant_id"] for tenant in await _applied_tenants()]
    store = RedisAdmissionStore(settings.redis_url, settings.topic_prefix)
    try:
        figures = await store.usage(tenant_ids)
    finally:
        await store.close()
    return [{"tenant_id": name, **asdict(figure)} for name, figure in zip(tenant_ids, figures, strict=True)]
