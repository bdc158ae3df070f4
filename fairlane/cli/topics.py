"""``fairlane topics``: the topic registry, and what of it is on the broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import JSON_OPTION, print_json, print_objects

if TYPE_CHECKING:
    from fairlane.ports import LogReader

_COLUMNS = ["topic", "partitions", "records", "cleanup", "retention_h", "public", "key", "purpose"]


@click.group("topics", invoke_without_command=True, epilog="Example:  fairlane topics --json")
@JSON_OPTION
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List or create the topics.

    Without a command: every topic with its partitions and the records it keeps; a dash where it does not exist yet.
    """
    if context.invoked_subcommand is None:
        asyncio.run(_show(as_json))


@command.command("list", epilog="Example:  fairlane topics list")
@JSON_OPTION
def list_topics(as_json: bool) -> None:
    """The same as `fairlane topics`."""
    asyncio.run(_show(as_json))


@command.command("create", epilog="Example:  fairlane topics create --pool sim")
@click.option("--pool", "pools", multiple=True, help="Also the topics of this pool; may be repeated.")
@JSON_OPTION
def create(pools: tuple[str, ...], as_json: bool) -> None:
    """Create the topics that are missing.

    Those of the applied pools too. A topic that exists is left as it is.
    """
    created = asyncio.run(_create(pools))
    if as_json:
        print_json(created)
        return
    for name in created:
        click.echo(f"+ {name}")
    click.echo(f"{len(created)} created" if created else "all topics exist")


async def _create(pools: tuple[str, ...]) -> list[str]:
    from fairlane.adapters.kafka_topics import create_topics
    from fairlane.cli.config_commands import applied_now, names_of
    from fairlane.cli.connections import log_reader, resolved_settings

    settings = resolved_settings("kafka_bootstrap")
    created = list(await create_topics(settings.kafka_bootstrap, settings.topic_prefix, pools))
    async with log_reader(settings) as reader:
        applied = await applied_now(reader, names_of(settings.topic_prefix))
    known = applied.fold.view.pools
    return created + list(await create_topics(settings.kafka_bootstrap, settings.topic_prefix, known))


async def _show(as_json: bool) -> None:
    from fairlane.cli.connections import log_reader, resolved_settings
    from fairlane.errors import Reject, Retry
    from fairlane.settings import load_settings

    try:
        settings = resolved_settings("kafka_bootstrap")
        async with log_reader(settings) as reader:
            rows = await topic_rows(settings.topic_prefix, reader)
    except (Reject, Retry) as failure:
        click.echo(f"the registry alone, for no broker was asked: {failure}", err=True)
        rows = await topic_rows(load_settings().topic_prefix, None)
    print_objects(rows, _COLUMNS, as_json=as_json)


async def topic_rows(prefix: str, reader: LogReader | None) -> list[dict[str, Any]]:
    """A row for each topic; per-pool topics have one for each applied pool, or one for all without a reader.

    ``records`` counts offsets between the first kept and the end: on a compacted topic an upper bound.
    """
    from fairlane.agents.config_apply import read_applied
    from fairlane.cli.config_commands import names_of
    from fairlane.errors import Retry
    from fairlane.schemas.topics import TOPICS

    pools: list[str] = []
    if reader is not None:
        names = names_of(prefix)
        try:
            pools = sorted((await read_applied(reader, names.tenants, names.catalog)).fold.view.pools)
        except Retry:
            pools = []
    rows = []
    for spec in TOPICS:
        instances = [spec.full_name(prefix, pool) for pool in pools] if spec.per_pool else [spec.full_name(prefix)]
        for name in instances or [prefix + spec.name]:
            partitions = records = None
            if reader is not None and "{pool}" not in name:
                try:
                    starts, ends = await reader.starts(name), await reader.ends(name)
                    partitions = len(ends)
                    records = sum(end - starts.get(partition, 0) for partition, end in ends.items())
                except Retry:
                    pass  # the broker does not know it: the dash says so
            rows.append(
                {
                    "topic": name,
                    "partitions": partitions,
                    "records": records,
                    "cleanup": spec.cleanup,
                    "retention_h": None if spec.retention_ms is None else spec.retention_ms // 3_600_000,
                    "public": spec.public,
                    "key": spec.key,
                    "model": spec.model.__name__,
                    "purpose": spec.purpose,
                }
            )
    return rows
