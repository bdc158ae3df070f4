"""``fairlane dlq``: list, show and redrive dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import JSON_OPTION, print_json, print_objects

if TYPE_CHECKING:
    from fairlane.agents.topic_names import TopicNames
    from fairlane.ports import LogReader, Record
    from fairlane.schemas.dead_letter import DeadLetter
    from fairlane.settings import Settings

LIST_DEFAULT = 50
REDRIVE_MAX = 10_000
_HEADERS_SHOWN = 100
_COLUMNS = ["dead_letter_id", "event_time", "code", "field", "tenant_id", "request_id", "payload_bytes", "redriven_at"]


def _known_code(_ctx: click.Context, _option: click.Parameter, code: str | None) -> str | None:
    from fairlane.schemas.errors import ErrorCode

    if code is not None and code not in set(ErrorCode):
        raise click.BadParameter(f"{code!r} is no error code; there are {', '.join(ErrorCode)}")
    return code


_CODE_OPTION = click.option("--code", callback=_known_code, help="Only dead letters with this error code.")


@click.group("dlq", epilog="Example:  fairlane dlq list --code invalid_json")
def command() -> None:
    """Dead letters: records that could get no result, and why. Their bytes stay in their source topic."""


@command.command("list", epilog="Example:  fairlane dlq list --code invalid_json --limit 10")
@_CODE_OPTION
@click.option("--limit", type=click.IntRange(1, 100_000), default=LIST_DEFAULT, show_default=True,
              help="How many of the newest to show.")  # fmt: skip
@JSON_OPTION
def list_letters(code: str | None, limit: int, as_json: bool) -> None:
    """List the newest dead letters, oldest first."""
    from fairlane.cli.dead_letters import read_letters

    async def run() -> None:
        async with _log() as (reader, names, _):
            letters = await read_letters(reader, names, limit=limit, code=code)
        objects = [letter.model_dump(mode="json", by_alias=True) for letter in letters.by_id.values()]
        if as_json:
            print_json(objects)
            return
        rows = [{**item, "code": item["error"]["code"], "field": item["error"]["field"]} for item in objects]
        print_objects(rows, _COLUMNS, as_json=False)
        if letters.older:
            click.echo(f"and {letters.older} older; see --limit", err=True)

    asyncio.run(run())


@command.command("show", epilog="Example:  fairlane dlq show fairlane.requests/3/1207 --payload")
@click.argument("dead_letter_id", metavar="ID")
@click.option("--payload", is_flag=True, help="Also print the record's value, which may hold what a tenant wrote.")
@JSON_OPTION
def show(dead_letter_id: str, payload: bool, as_json: bool) -> None:
    """Show one dead letter and its record.

    The record's value is printed only with --payload; the record may be gone by retention.
    """
    from fairlane.cli.dead_letters import source_record

    async def run() -> None:
        async with _log() as (reader, names, _):
            letter = await _letter(reader, names, dead_letter_id)
            source = await source_record(reader, letter)
        shown = {**letter.model_dump(mode="json", by_alias=True), "source": _source_object(source, payload)}
        if as_json:
            print_json(shown)
            return
        for name, item in shown.items():
            if isinstance(item, dict):
                for member, value in item.items():
                    click.echo(f"{name}.{member}: {'-' if value is None else value}")
            elif name == "source":
                click.echo("source: no longer kept")
            else:
                click.echo(f"{name}: {'-' if item is None else item}")

    asyncio.run(run())


@command.command("redrive", epilog="Example:  fairlane dlq redrive --all --code unsupported_version")
@click.argument("dead_letter_id", metavar="[ID]", required=False)
@click.option("--all", "every", is_flag=True, help=f"All that were not redriven yet, at most {REDRIVE_MAX} at once.")
@_CODE_OPTION
@click.option("--again", is_flag=True, help="Also what was redriven before (only with an ID).")
@JSON_OPTION
def redrive(dead_letter_id: str | None, every: bool, code: str | None, again: bool, as_json: bool) -> int:
    """Send dead letters' records again.

    The original bytes go to `requests` with a header that names the dead letter. Mend the cause first.
    """
    if (dead_letter_id is None) != every:
        raise click.UsageError("give an ID or --all, one of them")
    if dead_letter_id is not None and code is not None:
        raise click.UsageError("--code goes with --all")
    if every and again:
        raise click.UsageError("--again goes with an ID: sending everything once more is never meant")
    return asyncio.run(_redrive(dead_letter_id, code, again, as_json))


async def _redrive(dead_letter_id: str | None, code: str | None, again: bool, as_json: bool) -> int:
    from fairlane.cli.connections import log_publisher
    from fairlane.cli.dead_letters import CannotRedrive, read_letters, redrive
    from fairlane.clock import SystemClock

    outcomes: list[dict[str, Any]] = []
    async with _log() as (reader, names, settings), log_publisher(settings, "fairlane-dlq") as publisher:
        if dead_letter_id is not None:
            letters = [await _letter(reader, names, dead_letter_id)]
        else:
            found = await read_letters(reader, names, limit=REDRIVE_MAX, code=code, open_only=True)
            letters = list(found.by_id.values())
            if found.older:
                click.echo(f"{found.older} older ones are left for the next run", err=True)
        for letter in letters:
            try:
                await redrive(letter, reader, publisher, names, SystemClock().now_ms(), again=again)
                outcomes.append({"dead_letter_id": letter.dead_letter_id, "redriven": True, "reason": None})
            except CannotRedrive as failure:
                outcomes.append({"dead_letter_id": letter.dead_letter_id, "redriven": False, "reason": str(failure)})
    refused = [outcome for outcome in outcomes if not outcome["redriven"]]
    if as_json:
        print_json(outcomes)
    else:
        for outcome in refused:
            click.echo(f"fairlane: {outcome['reason']}", err=True)
        click.echo(f"{len(outcomes) - len(refused)} redriven" + (f", {len(refused)} not" if refused else ""))
    return 1 if refused else 0


@asynccontextmanager
async def _log() -> AsyncIterator[tuple[LogReader, TopicNames, Settings]]:
    from fairlane.cli.config_commands import names_of
    from fairlane.cli.connections import log_reader, resolved_settings

    settings = resolved_settings("kafka_bootstrap")
    async with log_reader(settings) as reader:
        yield reader, names_of(settings.topic_prefix), settings


async def _letter(reader: LogReader, names: TopicNames, dead_letter_id: str) -> DeadLetter:
    from fairlane.cli.dead_letters import find_letter
    from fairlane.errors import Reject

    letter = await find_letter(reader, names, dead_letter_id)
    if letter is None:
        raise Reject(f"there is no dead letter {dead_letter_id}; `fairlane dlq list` shows what there is")
    return letter


def _source_object(source: Record | None, payload: bool) -> dict[str, Any] | None:
    if source is None:
        return None
    shown: dict[str, Any] = {
        "timestamp_ms": source.timestamp_ms,
        "key_bytes": None if source.key is None else len(source.key),
        "fault": source.fault,
        "headers": [printable(name) for name, _ in source.headers[:_HEADERS_SHOWN]],
    }
    if payload:
        value = source.value
        shown["payload"] = None if value is None else printable(value.decode(errors="backslashreplace"))
    return shown


def printable(text: str) -> str:
    """Text that does nothing to a terminal: control and direction characters become escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
