"""Many seeds, shrinking what fails, and the command."""

from __future__ import annotations

import json

import pytest

from fairlane.cli.main import main
from fairlane.devstack.simulation.mutations import MUTATIONS, switched_on
from fairlane.devstack.simulation.run import plan, simulate
from fairlane.devstack.simulation.runner import Tally, rules, run_seeds, shrink

ANSWERS_NOT_LOOKED_UP = next(mutation for mutation in MUTATIONS if mutation.name == "answers-not-looked-up")


def totals(first: int, count: int, processes: int) -> Tally:
    total = Tally()
    for tally in run_seeds(first, count, processes):
        total.add(tally)
    return total


def test_seeds_give_the_same_over_one_process_and_over_two() -> None:
    alone, side_by_side = totals(3, 30, 1), totals(3, 30, 2)
    assert alone.seeds == side_by_side.seeds == 30
    assert alone.figures == side_by_side.figures
    assert alone.virtual_s == pytest.approx(side_by_side.virtual_s)
    assert alone.failed == side_by_side.failed == []


def failing_seed() -> int:
    for seed in range(400):
        if simulate(plan(seed)).violations:
            return seed
    raise AssertionError("the bug was not found")


def test_a_failing_plan_shrinks_to_what_is_needed_and_breaks_the_same_promise() -> None:
    with switched_on(ANSWERS_NOT_LOOKED_UP):
        todo = plan(failing_seed())
        smaller = shrink(todo)
        assert rules(simulate(smaller)) & rules(simulate(todo))
        assert len(smaller.faults) < len(todo.faults) or len(todo.faults) == 1
        assert len(smaller.arrivals) < len(todo.arrivals)
    assert simulate(smaller).violations == []


def test_the_command_runs_seeds_and_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seeds", "4", "--from", "2", "--processes", "1"]) == 0
    assert "4 seeds from 2, 0 broke a promise" in capsys.readouterr().out
    assert main(["sim", "--seeds", "2", "--processes", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["seeds"], document["failed"], document["shrunk"]) == (2, [], [])
    assert document["figures"]["requests"] > 0


def test_the_command_tells_one_seed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "3", "--trace"]) == 0
    out = capsys.readouterr().out
    assert "gate-0 starts" in out
    assert "every promise kept" in out
    assert main(["sim", "--seed", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == simulate(plan(3)).fingerprint


def test_the_command_prints_a_failing_seed_with_the_least_that_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with switched_on(ANSWERS_NOT_LOOKED_UP):
        seed = failing_seed()
        assert main(["sim", "--seeds", "1", "--from", str(seed), "--processes", "1"]) == 1
        assert main(["sim", "--seed", str(seed)]) == 1
    out = capsys.readouterr().out
    assert f"again: fairlane sim --seed {seed} --trace" in out
    assert "enough for it" in out
