"""``fairlane catalog``: apply, list and compare providers, pools, models with prices, and routes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.config_commands import DRY_RUN_OPTION, FILE_OPTION, PRUNE_OPTION
from fairlane.cli.display import JSON_OPTION, print_json, print_table

if TYPE_CHECKING:
    from fairlane.cli.config_commands import Planner
    from fairlane.schemas.catalog import CatalogEntry

_KINDS = ("provider", "pool", "model", "route")


@click.group("catalog", epilog="Example:  fairlane catalog apply -f examples/catalog.yaml")
def command() -> None:
    """The catalog says what tenants can ask for, where it runs and what it costs."""


@command.command("apply", epilog="Example:  fairlane catalog apply -f catalog.yaml --dry-run")
@FILE_OPTION
@PRUNE_OPTION
@DRY_RUN_OPTION
@JSON_OPTION
def apply(path: str, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Apply a catalog file.

    The whole file is checked before anything is written; then the topics of new pools are created and the
    entries that differ are written. Prices are append-only: another amount for an applied date becomes that
    date's next revision.
    """
    from fairlane.cli.config_commands import apply_plan

    planner = _planner(path)
    asyncio.run(apply_plan("catalog", planner, prune=prune, dry_run=dry_run, as_json=as_json))


@command.command("diff", epilog="Example:  fairlane catalog diff -f catalog.yaml")
@FILE_OPTION
@JSON_OPTION
def diff(path: str, as_json: bool) -> int:
    """Compare a catalog file with what is applied.

    Exits 1 if they differ.
    """
    from fairlane.cli.config_commands import difference

    return asyncio.run(difference(_planner(path), as_json=as_json))


@command.command("list", epilog="Example:  fairlane catalog list --json")
@JSON_OPTION
def list_entries(as_json: bool) -> None:
    """List the entries as applied, defaults filled in.

    With --json an object each: kind, name, then the fields as in the file (a provider's kind as provider_kind).
    """
    entries = [entry_object(entry) for entry in asyncio.run(_applied_entries())]
    if as_json:
        print_json(entries)
        return
    print_table(["kind", "name", "fields"], [[entry["kind"], entry["name"], _fields_text(entry)] for entry in entries])


def entry_object(entry: CatalogEntry) -> dict[str, Any]:
    """An entry for machines: its kind and name, then its fields as in the file.

    A provider's own ``kind`` stands as ``provider_kind``, for ``kind`` says what the entry is.
    """
    fields = entry.model_dump(mode="json", by_alias=True)[entry.kind]
    if "kind" in fields:
        fields = {f"{entry.kind}_kind" if field == "kind" else field: value for field, value in fields.items()}
    return {"kind": entry.kind, "name": fields[entry.kind], **fields}


def _fields_text(entry: dict[str, Any]) -> str:
    shown = {field: item for field, item in entry.items() if field not in {"kind", "name", entry["kind"]}}
    return ", ".join(f"{field} {_plain(item)}" for field, item in shown.items() if item not in (None, []))


def _plain(item: Any) -> str:
    if not isinstance(item, list):
        return str(item)
    return "[" + ", ".join(_price_text(member) if isinstance(member, dict) else str(member) for member in item) + "]"


def _price_text(price: dict[str, Any]) -> str:
    amounts = "/".join(price[field] for field in ("input", "cached_input", "output") if price[field] is not None)
    revision = f" r{price['revision']}" if price["revision"] > 1 else ""
    return f"{amounts} from {price['from'].removesuffix('T00:00:00.000Z')}{revision}"


def _planner(path: str) -> Planner:
    from fairlane.agents.config_file import read_catalog_file
    from fairlane.agents.config_plan import plan_catalog
    from fairlane.cli.config_commands import environment_value, file_text

    file = read_catalog_file(*file_text(path), environment_value)
    return lambda applied, prune, now_ms: plan_catalog(
        file,
        applied.fold.catalog,
        rewrite=applied.unreadable,
        prune=prune,
        now_ms=now_ms,
        retired=applied.fold.retired_models,
    )


async def _applied_entries() -> list[CatalogEntry]:
    from fairlane.cli.config_commands import applied_now, names_of
    from fairlane.cli.connections import log_reader, resolved_settings

    settings = resolved_settings("kafka_bootstrap")
    async with log_reader(settings) as reader:
        applied = await applied_now(reader, names_of(settings.topic_prefix))
    return sorted(applied.fold.catalog.values(), key=lambda entry: (_KINDS.index(entry.kind), entry.key))
