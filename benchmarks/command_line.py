"""How the long commands end: in one line, with an exit code that means something, and with nothing left running."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType

import click

from fairlane.errors import FairlaneError


def run_command(command: click.Command) -> int:
    """Run a command with the arguments of this process; returns its exit code.

    1 for an expected failure (FairlaneError), 2 for arguments that cannot be, 130 after Ctrl-C or SIGTERM.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(command.main(prog_name=command.name, standalone_mode=False) or 0)
    except click.ClickException as failure:
        failure.show()
        return failure.exit_code
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        return 130
    except FairlaneError as failure:
        click.echo(f"{command.name}: {failure}", err=True)
        return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
