"""``fairlane status``: what runs, and whether it answers."""

from __future__ import annotations

import click

from fairlane.cli.display import JSON_OPTION, print_json, print_table


@click.command("status", epilog="Example:  fairlane status --json | jq -r .kafka")
@JSON_OPTION
def command(as_json: bool) -> int:
    """Ask every service and every stage process whether it is ready; exit 0 only if all of them are."""
    import asyncio

    from fairlane.devstack.status import stack_status
    from fairlane.settings import load_settings

    settings = load_settings()
    status = asyncio.run(stack_status(settings))
    if as_json:
        print_json(status.as_object())
        return 0 if status.ready else 1
    rows: list[tuple[object, ...]] = [
        (name, "yes" if answered else "no", None, address or None)
        for name, (address, answered) in status.services.items()
    ]
    rows += [(stage.name, "yes" if stage.ready else "no", stage.pid, stage.metrics) for stage in status.stages]
    print_table(["process", "ready", "pid", "address"], rows)
    if status.phase == "down":
        click.echo(f"no stack runs in {settings.state_dir}: start one with `fairlane up`", err=True)
    elif not status.ready:
        click.echo(f"not ready ({status.phase}); the logs are in {settings.state_dir}/logs", err=True)
    return 0 if status.ready else 1
