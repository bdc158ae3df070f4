"""The ``fairlane`` command: finds a command's module when it is used, and turns errors into exit codes.

To add a command, write ``fairlane/cli/<name>.py`` with a click command called ``command`` and add a
row to :data:`COMMANDS`. Modules are imported only when their command is used, so that ``--help`` and
every other command start at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from fairlane import __version__
from fairlane.errors import FairlaneError, Reject, Retry

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


class CommandRow(NamedTuple):
    """A command as ``--help`` shows it, and the module that has it."""

    section: str
    module: str
    summary: str


COMMANDS: dict[str, CommandRow] = {
    "demo": CommandRow("Start here", "fairlane.cli.demo", "Run everything for a minute on a real trace, and check it."),
    "up": CommandRow("Stack", "fairlane.cli.up", "Start Kafka, Redis, ClickHouse, the simulator and all stages."),
    "down": CommandRow("Stack", "fairlane.cli.down", "Stop what `up` started."),
    "status": CommandRow("Stack", "fairlane.cli.status", "Show what runs and whether it is ready."),
    "doctor": CommandRow("Stack", "fairlane.cli.doctor", "Say what is missing on this machine and how to get it."),
    "run": CommandRow("Stack", "fairlane.cli.run", "Run one stage in the foreground."),
    "migrate": CommandRow("Stack", "fairlane.cli.migrate", "Bring the ClickHouse tables up to date."),
    "topics": CommandRow("Stack", "fairlane.cli.topics", "List or create the topics."),
    "sim": CommandRow("Stack", "fairlane.cli.sim", "Simulate the chain with faults, thousands of times, and check it."),
    "send": CommandRow("Requests", "fairlane.cli.send", "Send a prompt, or many requests from stdin."),
    "tail": CommandRow("Requests", "fairlane.cli.tail", "Follow results or any other public topic."),
    "explain": CommandRow("Requests", "fairlane.cli.explain", "Tell the story of one request, with times and reasons."),
    "dlq": CommandRow("Requests", "fairlane.cli.dlq", "List, show and redrive dead letters."),
    "tenants": CommandRow("Configuration", "fairlane.cli.tenants", "Apply, list and compare tenants."),
    "catalog": CommandRow(
        "Configuration", "fairlane.cli.catalog", "Apply, list and compare providers, models, prices."
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command; None if there is no such command."""
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        command: click.Command = importlib.import_module(row.module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, from the table alone."""
        for section in dict.fromkeys(row.section for row in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, row.summary) for name, row in COMMANDS.items() if row.section == section])


@click.command(
    cls=LazyGroup,
    epilog="Settings come from FAIRLANE_* variables and fairlane.toml. Exit codes: 0 done, 1 the operation or "
    "check failed, 2 wrong usage or input, 3 a service is not reachable.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="fairlane")
def command() -> None:
    """Multi-tenant LLM requests over Kafka: fair, priced, explained and billed once."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every expected error is one line on stderr."""
    try:
        outcome: Any = command.main(args=args, prog_name="fairlane", standalone_mode=False)
    except click.ClickException as failure:
        failure.show()
        return failure.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, for example) has seen enough. Python flushes stdout once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except FairlaneError as failure:
        click.echo(f"fairlane: {failure}", err=True)
        return _exit_code(failure)
    return outcome if isinstance(outcome, int) and not isinstance(outcome, bool) else 0


def _exit_code(failure: FairlaneError) -> int:
    if isinstance(failure, Retry):
        return EXIT_UNREACHABLE
    return EXIT_USAGE if isinstance(failure, Reject) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
