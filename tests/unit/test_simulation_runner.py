"""Many seeds, shrinking what fails, and the command."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from fairlane.cli.main import main
from fairlane.devstack.simulation import run, runner
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
    assert f"again: fairlane sim --seed {seed} --shrunk --trace" in out
    assert "enough for it" in out


def test_a_shrunk_plan_is_told_fully_and_runs_again_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    with switched_on(ANSWERS_NOT_LOOKED_UP):
        seed = failing_seed()
        smaller = shrink(plan(seed))
        runs = [(main(["sim", "--seed", str(seed), "--shrunk", "--trace"]), capsys.readouterr().out) for _ in range(2)]
        assert main(["sim", "--seed", str(seed), "--shrunk", "--json"]) == 1
        fingerprint = simulate(smaller).fingerprint
    assert runs[0] == runs[1]
    assert runs[0][0] == 1
    for each in (*smaller.faults, *smaller.arrivals):
        assert str(each) in runs[0][1]
    document = json.loads(capsys.readouterr().out)
    assert document["fingerprint"] == fingerprint
    assert [each["value"].encode() for each in document["arrivals"]] == [each.value for each in smaller.arrivals]
    assert len(document["faults"]) == len(smaller.faults)


def test_there_is_nothing_to_shrink_of_a_seed_that_keeps_every_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "3", "--shrunk"]) == 0
    assert "nothing to shrink" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--trace"],
        ["--shrunk"],
        ["--seed", "1", "--seeds", "5"],
        ["--seed", "1", "--from", "5"],
        ["--seed", "1", "--mutations"],
        ["--seed", "1", "--processes", "2"],
        ["--mutations", "--processes", "2"],
    ],
    ids=" ".join,
)
def test_an_option_that_would_be_ignored_is_a_usage_error(options: list[str]) -> None:
    assert main(["sim", *options]) == 2


def test_many_seeds_in_which_little_succeeds_prove_nothing() -> None:
    tally = Tally(seeds=100, figures=Counter(good=100, good_succeeded=89))
    assert tally.proves_too_little
    assert not Tally(seeds=99, figures=tally.figures).proves_too_little
    assert not Tally(seeds=100, figures=Counter(good=100, good_succeeded=90)).proves_too_little


def test_the_command_fails_if_too_little_succeeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FLOOR_SEEDS", 1)
    monkeypatch.setattr(runner, "SUCCESS_FLOOR", 1.1)
    assert main(["sim", "--seeds", "1", "--processes", "1"]) == 1
    assert "of the good requests succeeded" in capsys.readouterr().out


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell without job control starts what it puts into the background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_is_heard_between_two_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    original = run.live

    def interrupted(todo: run.Plan) -> run.Lived:
        os.kill(os.getpid(), signal.SIGINT)
        lived = original(todo)
        ended.append(todo.seed)
        return lived

    monkeypatch.setattr(run, "live", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(plan(3))
    assert ended == [3]
