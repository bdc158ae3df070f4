"""The simulation: seeds keep every promise, a seed is one history, and the checker sees what is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from fairlane.devstack.simulation.books import Disturbance
from fairlane.devstack.simulation.checker import check
from fairlane.devstack.simulation.facts import Facts, facts_of
from fairlane.devstack.simulation.faults import KINDS
from fairlane.devstack.simulation.log_twin import Appended, Committed, History
from fairlane.devstack.simulation.run import Lived, Plan, live, plan, simulate
from fairlane.devstack.simulation.stages import PREFIX
from fairlane.devstack.simulation.workload import POOL, Arrival, Shape, request
from fairlane.ports import Position, TenantUsage

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_keeps_every_promise(seed: int) -> None:
    outcome = simulate(plan(seed))
    assert outcome.violations == []
    assert outcome.figures["requests"] > 0


def test_seeds_differ_and_draw_every_kind_of_fault() -> None:
    plans = [plan(seed) for seed in range(1000)]
    assert {fault.kind for todo in plans for fault in todo.faults} == set(KINDS)
    assert len({todo.shape for todo in plans}) > 100


FINGERPRINTS = """
import sys
from fairlane.devstack.simulation.run import plan, simulate
print([simulate(plan(int(seed))).fingerprint for seed in sys.argv[1:]])
"""


def test_the_same_seed_gives_the_same_history_in_every_process() -> None:
    seeds = [str(seed) for seed in range(12)]
    here = str([simulate(plan(int(seed))).fingerprint for seed in seeds])
    for hash_seed in ("0", "4711"):
        run = subprocess.run(
            [sys.executable, "-c", FINGERPRINTS, *seeds],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


QUIET = Plan(
    seed=1,
    shape=Shape(slots=2),
    arrivals=(
        *(Arrival(0.1 * number, request("acme", f"r{number}", 20)) for number in range(6)),
        Arrival(0.3, request("acme", "r0", 20)),
        Arrival(0.3, request("bolt", "r0", 20)),
        Arrival(0.4, b"nonsense"),
    ),
    faults=(),
    interleave=True,
    fair=False,
)


@pytest.fixture(scope="module")
def lived() -> Lived:
    return live(QUIET)


def judged(history: History, lived: Lived, **changes: Any) -> list[str]:
    return check(facts_of(history, PREFIX, POOL), replace(lived.books, **changes)).violations


def rules(violations: list[str]) -> set[str]:
    return {violation.split(":", 1)[0] for violation in violations}


def on(topic: str) -> Callable[[Appended | Committed], bool]:
    return lambda event: isinstance(event, Appended) and event.record.topic == f"{PREFIX}{topic}"


def without(history: History, wanted: Callable[[Appended | Committed], bool]) -> History:
    """The history without the first such event."""
    place = next(place for place, event in enumerate(history) if wanted(event))
    return history[:place] + history[place + 1 :]


def twice(history: History, wanted: Callable[[Appended | Committed], bool], *, late: bool = False) -> History:
    """The history with the first such record once more at its end."""
    event = next(event for event in history if wanted(event))
    assert isinstance(event, Appended)
    return [*history, replace(event, record=replace(event.record, offset=10_000), late=late)]


def test_an_undisturbed_run_is_found_in_order(lived: Lived) -> None:
    assert lived.broken == []
    assert judged(lived.history, lived) == []


def test_a_lost_result_is_found(lived: Lived) -> None:
    assert {"terminal", "money", "commit"} <= rules(judged(without(lived.history, on("results")), lived))


def test_a_lost_dead_letter_is_found(lived: Lived) -> None:
    assert "terminal" in rules(judged(without(lived.history, on("dead-letters")), lived))


def test_a_second_terminal_is_found_and_forgiven_only_to_one_who_was_stopped(lived: Lived) -> None:
    assert "duplicate" in rules(judged(twice(lived.history, on("results")), lived))
    forgiven = twice(lived.history, on("results"), late=True)
    assert "duplicate" not in rules(judged(forgiven, lived))
    assert check(facts_of(forgiven, PREFIX, POOL), lived.books).figures["forgiven"] == 1


def test_a_record_that_came_late_excuses_one_duplicate_and_not_two(lived: Lived) -> None:
    once = twice(lived.history, on("results"), late=True)
    assert "duplicate" in rules(judged(twice(once, on("results")), lived))


def test_a_late_record_excuses_no_more_calls_than_one(lived: Lived) -> None:
    lane = next(event for event in lived.history if on("lanes.sim")(event))
    assert isinstance(lane, Appended)
    called = next(call for call in lived.books.calls if lane.record.key == call.request.encode())
    late = twice(lived.history, on("lanes.sim"), late=True)
    for more, found in ((1, False), (2, True)):
        broken = rules(judged(late, lived, calls=[*lived.books.calls, *[called] * more]))
        assert ("calls" in broken) is found


def test_a_lane_record_written_twice_excuses_no_commit_unless_one_came_late(lived: Lived) -> None:
    lane = next(event for event in lived.history if on("lanes.sim")(event))
    assert isinstance(lane, Appended)
    for late in (False, True):
        again = replace(lane, record=replace(lane.record, offset=10_000), late=late)
        early = Committed(0.0, "sim-dispatcher", {lane.record.tp: Position(lane.record.offset + 1)}, "dispatcher-0")
        place = lived.history.index(lane)
        history = [*lived.history[: place + 1], early, *lived.history[place + 1 :], again]
        assert ("commit" in rules(judged(history, lived))) is not late


def test_money_that_does_not_add_up_is_found(lived: Lived) -> None:
    usage = dict(lived.books.usage)
    for wrong in (
        replace(usage["acme"], spent_nano_usd=usage["acme"].spent_nano_usd + 1),
        replace(usage["acme"], held_nano_usd=1),
        TenantUsage(),
    ):
        assert rules(judged(lived.history, lived, usage=usage | {"acme": wrong})) == {"money"}


def test_an_answer_to_something_else_is_found(lived: Lived) -> None:
    place = next(place for place, event in enumerate(lived.history) if on("results")(event))
    event = lived.history[place]
    assert isinstance(event, Appended)
    document = orjson.loads(event.record.value or b"")
    document["response"]["text"] = "acme r99 20"
    wrong = replace(event, record=replace(event.record, value=orjson.dumps(document)))
    assert rules(judged([*lived.history[:place], wrong, *lived.history[place + 1 :]], lived)) == {"answer"}


def test_a_commit_before_its_effect_is_found(lived: Lived) -> None:
    lane = next(event for event in lived.history if on("lanes.sim")(event))
    assert isinstance(lane, Appended)
    early = Committed(0.0, "sim-dispatcher", {lane.record.tp: Position(lane.record.offset + 1)}, "dispatcher-0")
    place = lived.history.index(lane)
    assert rules(judged([*lived.history[: place + 1], early, *lived.history[place + 1 :]], lived)) == {"commit"}


def test_more_in_flight_than_slots_is_found(lived: Lived) -> None:
    assert rules(judged(lived.history, lived, slots=1)) == {"slots"}


def test_a_call_without_its_attempt_is_found(lived: Lived) -> None:
    assert "calls" in rules(judged(without(lived.history, on("attempts")), lived))


def test_an_attempt_told_twice_is_found_and_forgiven_only_to_one_who_was_stopped(lived: Lived) -> None:
    assert "attempt" in rules(judged(twice(lived.history, on("attempts")), lived))
    disturbed = [Disturbance(0.0, "freeze-sending", "worker-0", 3.0)]
    late = twice(lived.history, on("attempts"), late=True)
    assert "attempt" not in rules(judged(late, lived, disturbances=disturbed))
    assert "attempt" in rules(judged(twice(late, on("attempts")), lived, disturbances=disturbed))


def test_an_attempt_on_a_call_that_was_never_made_is_found(lived: Lived) -> None:
    disturbed = [Disturbance(0.0, "crash", "worker-0", 3.0)]
    broken = judged(lived.history, lived, calls=lived.books.calls[1:], disturbances=disturbed)
    assert "attempt" in rules(broken)


def test_tables_that_differ_from_the_log_are_found(lived: Lived) -> None:
    assert lived.books.tables is not None
    rows = list(lived.books.tables["requests"])
    for wrong in (rows[1:], [*rows, rows[0]]):
        assert rules(judged(lived.history, lived, tables={**lived.books.tables, "requests": wrong})) == {"tables"}


def test_a_run_in_which_nothing_succeeds_is_no_proof(lived: Lived) -> None:
    empty = Facts(asked=facts_of(lived.history, PREFIX, POOL).asked)
    assert "success" in {violation.split(":")[0] for violation in check(empty, lived.books).violations}


@pytest.mark.parametrize(
    ("target", "at_s", "ahead_s", "excused"),
    [
        ("gate-0", 0.0, 200.0, True),
        ("gate-0", 0.0, 20.0, False),
        ("gate-0", 0.0, -20.0, False),
        ("gate-0", 80.0, 200.0, False),
        ("worker-0", 0.0, 200.0, False),
    ],
)
def test_a_refusal_without_a_reason_is_excused_by_a_gate_whose_clock_was_beyond_the_deadline_and_by_nothing_else(
    lived: Lived, target: str, at_s: float, ahead_s: float, excused: bool
) -> None:
    place = next(place for place, event in enumerate(lived.history) if on("results")(event))
    event = lived.history[place]
    assert isinstance(event, Appended)
    document = orjson.loads(event.record.value or b"")
    refused = document | {"status": "rejected", "error": {"code": "internal"}}
    wrong = replace(event, record=replace(event.record, value=orjson.dumps(refused)))
    history = [*lived.history[:place], wrong, *lived.history[place + 1 :]]
    disturbed = [Disturbance(at_s, "clock", target, ahead_s)]
    assert ("success" not in rules(judged(history, lived, disturbances=disturbed))) is excused


def test_figures_of_many_seeds_add_up() -> None:
    total = sum((simulate(plan(seed)).figures for seed in range(3)), Counter[str]())
    assert total["good_succeeded"] <= total["good"] <= total["requests"]
