"""Where `make chaos` writes its rows."""

from __future__ import annotations

from click.testing import CliRunner

from tests.chaos.__main__ import PARTIAL, WHOLE, command, results_file
from tests.chaos.catalogue import FAULTS, SHORT


def test_only_a_whole_run_replaces_the_table_of_the_documentation() -> None:
    whole = [*FAULTS, "(all of these)"]
    assert results_file(whole) == WHOLE
    for part in ([SHORT.name, "(all of these)"], ["kill-gate"], [name for name in whole if name != "storm"], []):
        assert results_file(part) == PARTIAL


def test_the_help_says_where_the_rows_go() -> None:
    told = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "benchmarks/results/chaos.csv" in told
    assert "chaos-partial.csv" in told
