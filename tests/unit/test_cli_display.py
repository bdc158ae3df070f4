"""Tables in pipes: aligned, plain, complete."""

from __future__ import annotations

import json

import pytest

from fairlane.cli import display


def test_a_table_in_a_pipe_is_aligned_text_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    display.print_table(["tenant", "requests"], [["acme", 7], ["a-much-longer-name", 12345]])

    assert capsys.readouterr().out.splitlines() == [
        "tenant              requests",
        "acme                       7",
        "a-much-longer-name     12345",
    ]


def test_a_missing_cell_is_a_dash_and_an_empty_table_still_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    display.print_table(["a"], [[None]])
    display.print_table(["b"], [])

    assert capsys.readouterr().out.splitlines() == ["a", "-", "b"]


def test_objects_as_json_are_one_parsable_list_with_all_members(capsys: pytest.CaptureFixture[str]) -> None:
    display.print_objects([{"a": 1, "hidden": "ü"}], ["a"], as_json=True)

    assert json.loads(capsys.readouterr().out) == [{"a": 1, "hidden": "ü"}]


def test_progress_outside_a_terminal_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with display.progress("sent", 3) as advance:
        advance(1)
        advance(2)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "sent: 3 of 3\n"
