"""Every command of the table exists, with help that shows an example."""

from __future__ import annotations

import importlib

import click
import pytest

from fairlane.cli.main import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_of_the_table_is_there_with_help_and_an_example(name: str) -> None:
    command = importlib.import_module(COMMANDS[name].module).command
    assert isinstance(command, click.Command)
    assert command.help
    assert "Example" in (command.epilog or "") + command.help
