"""``fairlane down``: stop what ``fairlane up`` started."""

from __future__ import annotations

import click


@click.command("down", epilog="Example:  fairlane down")
def command() -> int:
    """Stop the stack in order: stages finish or hand back what is in flight, then the services stop.

    What a killed supervisor left is stopped too. Data stays in the state directory for the next `fairlane up`.
    """
    from fairlane.devstack.console import ConsoleReport
    from fairlane.devstack.running import stop_stack
    from fairlane.settings import load_settings

    settings = load_settings()
    stopped = stop_stack(settings, ConsoleReport(live=False))
    click.echo("stopped" if stopped else f"no stack runs in {settings.state_dir}", err=True)
    return 0
