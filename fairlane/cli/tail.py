"""``fairlane tail``: follow results or any other public topic."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from fairlane.cli.display import JSON_OPTION
from fairlane.errors import Reject

if TYPE_CHECKING:
    from fairlane.ports import LogReader, Record
    from fairlane.schemas.topics import TopicSpec


@click.command("tail", epilog="Example:  fairlane tail decisions --tenant acme --from-beginning -n 20")
@click.argument("topic", default="results")
@click.option("--tenant", help="Only records about this tenant.")
@click.option("--from-beginning", is_flag=True, help="Start with the oldest record kept instead of the next one.")
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after this many records.")
@click.option("--no-follow", is_flag=True, help="Stop at the present end instead of waiting for more.")
@JSON_OPTION
def command(
    topic: str, tenant: str | None, from_beginning: bool, count: int | None, no_follow: bool, as_json: bool
) -> None:
    """Print records of TOPIC (default: results) as they come, one a line.

    With --json a line is the record's value as it stands in the log.
    """
    from fairlane.cli.connections import log_reader, resolved_settings

    spec = public_topic(topic)

    async def run() -> None:
        settings = resolved_settings()
        async with log_reader(settings) as reader:
            full_name = spec.full_name(settings.topic_prefix)
            await follow(reader, spec, full_name, tenant, from_beginning, count, no_follow, as_json)

    asyncio.run(run())


def public_topic(name: str) -> TopicSpec:
    """The public topic with this registry name (a prefix before it is ignored). Raises Reject."""
    from fairlane.schemas.topics import TOPICS

    public = {spec.name: spec for spec in TOPICS if spec.public}
    spec = public.get(name) or public.get(name.rpartition(".")[2])
    if spec is None:
        raise Reject(f"topic {name!r} is not a public topic; there are {', '.join(public)}")
    return spec


async def follow(
    reader: LogReader,
    spec: TopicSpec,
    full_name: str,
    tenant: str | None,
    from_beginning: bool,
    count: int | None,
    no_follow: bool,
    as_json: bool,
) -> None:
    """Print records until ``count`` are shown or, with ``no_follow``, the present end is reached."""
    starts = await (reader.starts(full_name) if from_beginning or no_follow else reader.ends(full_name))
    ends = await reader.ends(full_name) if no_follow else None
    left = count
    async for batch in reader.read(full_name, starts, ends):
        for record in _in_order(batch, tenant):
            click.echo(_text(spec, record, as_json))
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _in_order(batch: Sequence[Record], tenant: str | None) -> Iterator[Record]:
    wanted = batch if tenant is None else [record for record in batch if tenant_of(record) == tenant]
    return iter(sorted(wanted, key=lambda record: record.timestamp_ms))


def tenant_of(record: Record) -> str | None:
    """The tenant a record is about, from its value; None if it names none."""
    import orjson

    try:
        value = orjson.loads(record.value or b"null")
    except orjson.JSONDecodeError:
        return None
    tenant = value.get("tenant_id") if isinstance(value, dict) else None
    return tenant if isinstance(tenant, str) else None


def _text(spec: TopicSpec, record: Record, as_json: bool) -> str:
    from fairlane.cli.record_text import record_line

    if not as_json:
        return record_line(spec.name, record)
    import json

    if record.value is None:
        return json.dumps({"key": (record.key or b"").decode(errors="replace"), "deleted": True})
    return record.value.decode(errors="replace").replace("\n", " ")
