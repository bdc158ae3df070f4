"""``fairlane migrate``: bring the ClickHouse tables up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from fairlane.cli.display import JSON_OPTION
from fairlane.settings import Settings, load_settings

if TYPE_CHECKING:
    from fairlane.sinks.migrate import MigrationReport


@click.command("migrate", epilog="Example:  fairlane migrate --dry-run")
@click.option("--dry-run", is_flag=True, help="Say what would be applied; change nothing.")
@JSON_OPTION
def command(dry_run: bool, as_json: bool) -> None:
    """Apply the numbered migrations that are not applied yet.

    It may run any number of times, and several at once. `fairlane up` does it by itself.
    """
    settings = load_settings()
    if not settings.clickhouse_url:
        from fairlane.cli.connections import resolved_settings

        settings = resolved_settings()
    report = asyncio.run(_migrate(settings, dry_run=dry_run))
    if as_json:
        import json

        document = {
            "database": settings.clickhouse_database,
            "dry_run": dry_run,
            "already": report.already,
            "pending" if dry_run else "applied": report.pending,
        }
        click.echo(json.dumps(document))
        return
    for name in report.already:
        click.echo(f"{name}  was applied before")
    for name in report.pending:
        click.echo(f"{name}  {'would be applied' if dry_run else 'applied'}")


async def _migrate(settings: Settings, *, dry_run: bool) -> MigrationReport:
    from fairlane.sinks.connection import ClickHouseConnection
    from fairlane.sinks.migrate import migrate

    connection = ClickHouseConnection(settings.clickhouse_url)
    try:
        return await migrate(connection, settings.clickhouse_database, dry_run=dry_run)
    finally:
        await connection.close()
