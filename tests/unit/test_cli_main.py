"""The command line's frame: lazy commands, exit codes, one-line errors."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import click
import pytest

from fairlane import __version__
from fairlane.cli import main as cli
from fairlane.errors import Fatal, Reject, Retry


def with_command(monkeypatch: pytest.MonkeyPatch, failure: BaseException | None) -> None:
    @click.command()
    def command() -> None:
        if failure is not None:
            raise failure

    monkeypatch.setitem(cli.COMMANDS, "probe", cli.CommandRow("Stack", "probe_module", "For the test."))
    monkeypatch.setitem(sys.modules, "probe_module", SimpleNamespace(command=command))


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (None, 0),
        (Reject("tenant: no such tenant; see `fairlane tenants list`"), 2),
        (Retry("Kafka at 127.0.0.1:1 does not answer"), 3),
        (Fatal("the state is broken"), 1),
        (click.UsageError("give a prompt"), 2),
        (click.exceptions.Exit(1), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_becomes_its_exit_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: BaseException | None, code: int
) -> None:
    with_command(monkeypatch, failure)

    assert cli.main(["probe"]) == code

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_purposeful_error_is_exactly_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_command(monkeypatch, Retry("Kafka at 127.0.0.1:1 does not answer"))

    cli.main(["probe"])

    assert capsys.readouterr().err == "fairlane: Kafka at 127.0.0.1:1 does not answer\n"


def test_version_and_help_are_printed_without_importing_any_command() -> None:
    script = (
        "import sys\nfrom fairlane.cli.main import COMMANDS, main\n"
        "assert main(['--version']) == 0 and main(['--help']) == 0\n"
        "loaded = [row.module for row in COMMANDS.values() if row.module in sys.modules]\n"
        "heavy = [name for name in ('rich', 'aiokafka', 'pydantic', 'faust') if name in sys.modules]\n"
        "assert not loaded and not heavy, (loaded, heavy)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert __version__ in shown
    assert all(name in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench-everything"]) == 2
    assert "bench-everything" in capsys.readouterr().err
