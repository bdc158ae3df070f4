"""``fairlane explain``: the story of one request, with times and reasons."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import JSON_OPTION, print_json
from fairlane.errors import Reject, Retry

if TYPE_CHECKING:
    from fairlane.cli.story import Evidence
    from fairlane.ports import LogReader
    from fairlane.settings import Settings
    from fairlane.sinks.connection import ClickHouseConnection


@click.command("explain", epilog="Example:  fairlane explain r-1 --tenant acme")
@click.argument("request")
@click.option("--tenant", help="Whose request it is; needed only where several tenants use the same id.")
@click.option(
    "--since-minutes", type=click.IntRange(min=1), default=60, show_default=True,
    help="How far back to read the log for what ClickHouse does not have.",
)  # fmt: skip
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, /, request: str, tenant: str | None, since_minutes: int, as_json: bool) -> None:
    """Tell what happened to REQUEST: received, admitted, waited, dispatched, called, answered, billed.

    Exits 1 if nothing is known of it.
    """
    evidence, notes = asyncio.run(gather(request, tenant, since_minutes * 60_000))
    if evidence is None:
        for note in notes:
            click.echo(note, err=True)
        click.echo(f"nothing is known of request {request}; an older one may need --since-minutes", err=True)
        ctx.exit(1)
    _show(evidence, notes, as_json)


async def gather(request_id: str, tenant: str | None, since_ms: int) -> tuple[Evidence | None, list[str]]:
    """What is known of a request, and notes on what could not be asked. ``since_ms``: how far back the log is read.

    Raises Reject if several tenants have such a request, and Retry if neither ClickHouse nor Kafka answers.
    """
    from fairlane.cli.connections import log_reader, resolved_settings
    from fairlane.sinks.connection import ClickHouseConnection

    settings = resolved_settings()
    notes: list[str] = []
    evidence: Evidence | None = None
    store = ClickHouseConnection(settings.clickhouse_url)
    try:
        evidence = await _ask_clickhouse(store, settings, request_id, tenant)
    except (Retry, Reject) as failure:
        if isinstance(failure, Reject) and "--tenant" in str(failure):
            raise
        notes.append(f"ClickHouse was not asked: {failure}")
    finally:
        await store.close()
    if evidence is not None and evidence.complete:
        return evidence, notes
    async with log_reader(settings) as reader:
        return await _ask_log(reader, settings, evidence, request_id, tenant, since_ms), notes


async def _ask_clickhouse(
    store: ClickHouseConnection, settings: Settings, request_id: str, tenant: str | None
) -> Evidence | None:
    from fairlane.cli.evidence import from_clickhouse, only_tenant, tenants_of
    from fairlane.cli.story import Evidence

    if tenant is None:
        tenant = only_tenant(await tenants_of(store, settings.clickhouse_database, request_id), request_id)
    if tenant is None:
        return None
    evidence = Evidence(tenant, request_id)
    await from_clickhouse(store, settings.clickhouse_database, evidence)
    return evidence


async def _ask_log(
    reader: LogReader, settings: Settings, evidence: Evidence | None, request_id: str, tenant: str | None, since_ms: int
) -> Evidence | None:
    from fairlane.cli.evidence import from_log, only_tenant, tenants_in_log
    from fairlane.cli.story import Evidence
    from fairlane.clock import SystemClock

    since = SystemClock().now_ms() - since_ms
    prefix = settings.topic_prefix
    if evidence is None:
        if tenant is None:
            tenant = only_tenant(await tenants_in_log(reader, prefix, request_id, since), request_id)
        if tenant is None:
            return None
        evidence = Evidence(tenant, request_id)
    await from_log(reader, prefix, evidence, since)
    return None if evidence.empty else evidence


def _show(evidence: Evidence, notes: list[str], as_json: bool) -> None:
    from fairlane.cli.story import story_text, tell

    story = tell(evidence)
    if as_json:
        result: dict[str, Any] | None = None
        if evidence.result is not None:
            result = {name: value for name, value in evidence.result.items() if name != "response"}
        print_json({
            "tenant_id": evidence.tenant_id, "request_id": evidence.request_id, "headline": story.headline,
            "sources": sorted(evidence.sources), "notes": notes,
            "events": [asdict(event) for event in story.events], "result": result,
            "decisions": evidence.decisions, "attempts": evidence.attempts, "dead_letters": evidence.dead_letters,
            "replays": evidence.replays,
        })  # fmt: skip
        return
    for line in story_text(story):
        click.echo(line)
    for note in notes:
        click.echo(note, err=True)
    click.echo(f"from {' and '.join(sorted(evidence.sources))}", err=True)
