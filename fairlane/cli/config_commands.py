"""What ``fairlane tenants`` and ``fairlane catalog`` have in common: read a file, plan, show, write."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairlane.cli.display import print_json
from fairlane.errors import Reject

if TYPE_CHECKING:
    from fairlane.agents.config_apply import Applied
    from fairlane.agents.config_plan import Plan
    from fairlane.agents.topic_names import TopicNames
    from fairlane.ports import LogReader

    Planner = Callable[[Applied, bool, int], Plan]
    """(what is applied, prune, now in ms since the epoch) -> plan."""

FILE_OPTION = click.option(
    "-f", "--file", "path", required=True, metavar="FILE", help="The YAML file; - reads standard input."
)
PRUNE_OPTION = click.option("--prune", is_flag=True, help="Also remove what is applied but not in the file.")
DRY_RUN_OPTION = click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
_SIGNS = {"add": "+", "change": "~", "remove": "-"}


def file_text(path: str) -> tuple[str, str]:
    """The text of a file and its name for messages. Raises Reject if it cannot be read as UTF-8."""
    name = "standard input" if path == "-" else path
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return content.decode(), name
    except UnicodeDecodeError:
        raise Reject(f"{name}: not UTF-8 text") from None
    except OSError as failure:
        raise Reject(f"{name}: {failure.strerror or failure}") from None


def environment_value(name: str) -> str | None:
    """The value of a variable; of a setting also what ``fairlane.toml`` and the running stack say."""
    from dataclasses import fields

    from fairlane.cli import connections
    from fairlane.settings import ENV_PREFIX, Settings

    if value := os.environ.get(name):
        return value
    setting = name.removeprefix(ENV_PREFIX).lower()
    if not name.startswith(ENV_PREFIX) or setting not in {field.name for field in fields(Settings)}:
        return None
    return str(getattr(connections.resolved_settings(), setting)) or None


def names_of(prefix: str) -> TopicNames:
    """The topics of this installation."""
    from fairlane.agents.topic_names import TopicNames

    return TopicNames(prefix)


async def applied_now(reader: LogReader, names: TopicNames) -> Applied:
    """What is applied; a record that cannot be read is told on stderr."""
    from fairlane.agents.config_apply import read_applied

    applied = await read_applied(reader, names.tenants, names.catalog)
    for key in sorted(applied.unreadable):
        click.echo(
            f"warning: the last record of {key} is not as its contract says; applying its file mends it", err=True
        )
    return applied


async def apply_plan(topic: str, planner: Planner, *, prune: bool, dry_run: bool, as_json: bool) -> None:
    """Plan against the running installation, show the plan and, unless it is a dry run, write it."""
    from fairlane.adapters.kafka_topics import create_topics
    from fairlane.agents.config_apply import write_changes
    from fairlane.cli.connections import log_publisher, log_reader, resolved_settings
    from fairlane.clock import SystemClock

    settings = resolved_settings("kafka_bootstrap")
    names = names_of(settings.topic_prefix)
    full_name = settings.topic_prefix + topic
    if not dry_run:
        await create_topics(settings.kafka_bootstrap, settings.topic_prefix)
    async with log_reader(settings) as reader:
        applied = await applied_now(reader, names)
        plan = planner(applied, prune, SystemClock().now_ms())
        _tell_unset_keys(plan, settings.simulator_url)
        if dry_run:
            show_plan(plan, as_json=as_json, outcome="not written (--dry-run)")
            return
        # Before the records that name them: a stage looks for a pool's topics as soon as it knows the pool.
        await create_topics(settings.kafka_bootstrap, settings.topic_prefix, plan.pools)
        written = []
        if plan.changes:
            async with log_publisher(settings, f"fairlane-{topic}-apply") as publisher:
                written = await write_changes(plan, full_name, publisher)
    show_plan(plan, as_json=as_json, outcome="written")
    if written and min(record.offset for record in written) != applied.ends[full_name]:
        click.echo("warning: somebody else applied at the same time; check with `diff` and apply again", err=True)


async def difference(planner: Planner, *, as_json: bool) -> int:
    """Show how a file differs from what is applied; 1 if it does, else 0."""
    from fairlane.cli.connections import log_reader, resolved_settings
    from fairlane.clock import SystemClock

    settings = resolved_settings("kafka_bootstrap")
    async with log_reader(settings) as reader:
        applied = await applied_now(reader, names_of(settings.topic_prefix))
    plan = planner(applied, False, SystemClock().now_ms())
    show_plan(plan, as_json=as_json, outcome="to apply")
    return 1 if plan.changes or plan.only_applied else 0


def _tell_unset_keys(plan: Plan, simulator_url: str) -> None:
    """A key may be set for the workers only; still, this is when its absence is cheapest to notice.

    The simulator takes any key, and `fairlane up` gives its workers one.
    """
    from fairlane.agents.provider_keys import unset_keys

    named = (provider for provider in plan.providers if provider.base_url.rstrip("/") != simulator_url.rstrip("/"))
    for provider, variable in unset_keys(named, os.environ.get):
        click.echo(
            f"warning: the key of provider {provider} is the variable {variable}, which is not set in this shell; "
            "the workers need it in their environment",
            err=True,
        )


def show_plan(plan: Plan, *, as_json: bool, outcome: str) -> None:
    """The plan as JSON, or a line for each entry; warnings go to stderr."""
    for warning in plan.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        print_json(plan_object(plan))
        return
    for change in plan.changes:
        click.echo(f"{_SIGNS[change.action]} {change.key}")
        for line in change.differences:
            click.echo(f"    {line}")
    for key in plan.only_applied:
        click.echo(f"  {key}: applied, not in the file (stays; --prune removes it)")
    count = len(plan.changes)
    click.echo("no changes" if not count else f"{count} {'change' if count == 1 else 'changes'} {outcome}")


def plan_object(plan: Plan) -> dict[str, Any]:
    """A plan for machines."""
    return {
        "changes": [
            {"action": change.action, "key": change.key, "differences": list(change.differences)}
            for change in plan.changes
        ],
        "only_applied": list(plan.only_applied),
        "warnings": list(plan.warnings),
    }
