"""The simulation's rules are worth something: an early seed breaks the rule about a bug made by hand in the product."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from fairlane.agents import (
    command_intake,
    effect_writer,
    gate,
    gate_outcomes,
    intake,
    lane_records,
    pool_scheduler,
    settle,
    worker,
    worker_records,
)
from fairlane.agents.worker_records import Bill
from fairlane.devstack.simulation.books import Disturbance
from fairlane.devstack.simulation.checker import check
from fairlane.devstack.simulation.facts import facts_of
from fairlane.devstack.simulation.run import live, plan, simulate
from fairlane.devstack.simulation.runner import rules
from fairlane.devstack.simulation.stages import PREFIX
from fairlane.devstack.simulation.workload import POOL
from fairlane.policy import admission, pricing, slots, vtc
from fairlane.policy.pricing import PriceRow
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.result import Cost

SEEDS = 300
"""The last of these bugs is found by seed 22; how early changes with every change of what a seed draws."""

Change = tuple[object, str, object]
Bug = Callable[[], Sequence[Change]]


def cap_is(change: Callable[[int], int]) -> Bug:
    original = admission.TenantAdmission.admit

    def admit(self: Any, *, max_undispatched: int, **asked: Any) -> admission.Verdict:
        return original(self, max_undispatched=change(max_undispatched), **asked)

    return lambda: [(admission.TenantAdmission, "admit", admit)]


def no_command_is_done() -> Sequence[Change]:
    return [(pool_scheduler.PoolScheduler, "cancel", lambda _self, _key: False)]


def no_command_is_read_again() -> Sequence[Change]:
    async def replay(*_: Any, **__: Any) -> None:
        return None

    return [(command_intake.CommandIntake, "replay", replay)]


def no_command_is_kept() -> Sequence[Change]:
    return [(command_intake.CommandIntake, "arrived", lambda *_: None)]


def nothing_expires_in_its_lane() -> Sequence[Change]:
    def expire(_self: Any, _now_ms: int) -> Iterator[vtc.Waiting]:
        return iter(())

    return [(vtc.FairQueue, "expire", expire)]


def nothing_expires_at_a_worker() -> Sequence[Change]:
    return [(worker_records.Work, "deadline_ms", property(lambda _self: None))]


def a_call_may_take_longer_than_its_request() -> Sequence[Change]:
    original = worker.Worker._call

    async def call(self: Any, work: Any, number: int, _timeout_ms: int) -> Any:
        return await original(self, work, number, work.job.route.timeout_ms)

    return [(worker.Worker, "_call", call)]


def bands_are_reversed() -> Sequence[Change]:
    return [(vtc, "BANDS", tuple(reversed(vtc.BANDS)))]


def a_repeated_answer_costs() -> Sequence[Change]:
    original = gate_outcomes.replay_of

    def replay_of(stored: Any, *args: Any) -> Any:
        return original(stored, *args).model_copy(update={"cost": stored.cost})

    return [(gate_outcomes, "replay_of", replay_of), (settle, "replay_of", replay_of)]


def bills_are(change: Callable[[Any, Any, Bill], int]) -> Bug:
    original = worker_records.bill

    def bill(job: Any, usages: Any) -> Bill:
        right = original(job, usages)
        return replace(right, cost=Cost(nano_usd=change(job, usages, right), price_id=right.cost.price_id))

    return lambda: [(worker, "bill", bill), (worker_records, "bill", bill)]


def one_too_many(_job: Any, _usages: Any, right: Bill) -> int:
    return right.cost.nano_usd + (right.cost.nano_usd > 0)


def halves_up(job: Any, usages: Any, _right: Bill) -> int:
    exact = sum(
        usage.input_tokens * job.route.input_price + usage.output_tokens * job.route.output_price for usage in usages
    )
    return int((exact + 500_000) // 1_000_000)


def without_output(job: Any, usages: Any, _right: Bill) -> int:
    row = PriceRow("", 0, job.route.input_price, job.route.cached_input_price, 0)
    return sum(pricing.cost(row, usage.input_tokens, 0, usage.output_tokens) for usage in usages)


def holds_are(change: Callable[[int, int], tuple[int, int]]) -> Bug:

    def cost(row: Any, inputs: int, cached: int, outputs: int) -> int:
        inputs, outputs = change(inputs, outputs)
        return pricing.cost(row, inputs, cached, outputs)

    return lambda: [(intake, "cost", cost)]


def nobody_is_lifted() -> Change:
    return vtc.FairQueue, "_lift_to", lambda _self: 0.0


def charges_are(change: Callable[[float], float]) -> Bug:
    """The dispatcher says that it charged something else than it did, to excuse that it lifts nobody."""
    original = lane_records.LaneRecords.bound

    def bound(self: Any, source: bytes, ticket: Any, pick: vtc.Pick, *args: int) -> Any:
        charge = replace(pick.charge, units=change(pick.charge.units))
        return original(self, source, ticket, replace(pick, charge=charge), *args)

    return lambda: [nobody_is_lifted(), (lane_records.LaneRecords, "bound", bound)]


def predictions_are(tokens: float) -> Bug:
    return lambda: [nobody_is_lifted(), (vtc.FairQueue, "predicted_output", lambda *_: tokens)]


def attempts_are(change: Callable[[list[Any]], list[Any]]) -> Bug:
    original = effect_writer.EffectWriter.write

    async def write(self: Any, effects: Sequence[Any]) -> Any:
        attempts = [effect for effect in effects if effect.topic.endswith("attempts")]
        others = [effect for effect in effects if effect not in attempts]
        return await original(self, [*change(attempts), *others])

    return lambda: [(effect_writer.EffectWriter, "write", write)]


def numbered_on(attempts: list[Any]) -> list[Any]:
    """Each attempt again, as if it were the next one."""
    again = []
    for attempt in attempts:
        document = orjson.loads(attempt.value)
        number = document["attempt"] + 1
        name = document["attempt_id"].rsplit("/", 1)[0]
        value = orjson.dumps(document | {"attempt": number, "attempt_id": f"{name}/{number}"})
        again.append(replace(attempt, value=value))
    return [*attempts, *again]


def only_calls_made_again_are_told_twice(attempts: list[Any]) -> list[Any]:
    return attempts * 2 if any(orjson.loads(attempt.value)["attempt"] > 1 for attempt in attempts) else attempts


def one_group_has_all_slots() -> Sequence[Change]:
    def free_group(self: slots.SlotGroups) -> int | None:
        return 0 if self.in_flight < self.capacity else None

    return [(slots.SlotGroups, "free_group", free_group)]


def groups_have(capacity: Callable[[int, int], list[int]]) -> Bug:
    return lambda: [(slots, "split_capacity", capacity)]


def another_code_in_the_lane() -> Sequence[Change]:
    original = pool_scheduler.PoolScheduler._end_in_lane

    def end_in_lane(self: Any, lane: Any, status: Any, kind: Any, _code: Any, now_ms: int) -> None:
        original(self, lane, status, kind, ErrorCode.OVERLOADED, now_ms)

    return [(pool_scheduler.PoolScheduler, "_end_in_lane", end_in_lane)]


def another_code_at_the_gate() -> Sequence[Change]:
    return [(gate, "queue_full", lambda _admission, _limit: error(ErrorCode.CONCURRENCY_LIMITED))]


def decisions_are(records: Callable[[Any], list[Any]]) -> Bug:
    original = pool_scheduler.PoolScheduler._write

    def write(self: Any, outgoing: Sequence[Any], *args: Any, **kwargs: Any) -> None:
        decision, *others = outgoing
        original(self, [*records(decision), *others] or outgoing, *args, **kwargs)

    return lambda: [(pool_scheduler.PoolScheduler, "_write", write)]


def no_decision_of_the_gate() -> Sequence[Change]:
    original = gate_outcomes.GateOutcomes.admitted
    return [(gate_outcomes.GateOutcomes, "admitted", lambda self, *args: original(self, *args)[:1])]


BUGS: dict[str, tuple[str, Bug]] = {
    "cap ignored": ("cap", cap_is(lambda _cap: 1_000_000)),
    "cap felt one too early": ("success", cap_is(lambda cap: cap - 1 or 1)),
    "cancel ignored": ("cancel", no_command_is_done),
    "cancel forgotten on takeover": ("cancel", no_command_is_read_again),
    "cancel before its request forgotten": ("cancel", no_command_is_kept),
    "deadline ignored in the lane": ("deadline", nothing_expires_in_its_lane),
    "deadline ignored before the call": ("deadline", nothing_expires_at_a_worker),
    "deadline ignored by the call": ("deadline", a_call_may_take_longer_than_its_request),
    "bands reversed": ("priority", bands_are_reversed),
    "replay charged": ("money", a_repeated_answer_costs),
    "cost off by one": ("price", bills_are(one_too_many)),
    "halves rounded up": ("price", bills_are(halves_up)),
    "output not billed": ("price", bills_are(without_output)),
    "hold of half the output": ("price", holds_are(lambda inputs, outputs: (inputs, outputs // 2))),
    "hold of the estimated prompt": ("price", holds_are(lambda inputs, outputs: (inputs // 4, outputs))),
    "charge told too high": ("charge", charges_are(lambda _units: 1e7)),
    "charge told above all the output": ("charge", charges_are(lambda units: units + 800)),
    "charge told without the prompt": ("charge", charges_are(lambda _units: 1.0)),
    "charge of more output than allowed": ("charge", predictions_are(100_000.0)),
    "hold of ten times the price": ("price", holds_are(lambda inputs, outputs: (10 * inputs, 10 * outputs))),
    "hold of one token more": ("price", holds_are(lambda inputs, outputs: (inputs + 1, outputs))),
    "attempt told twice": ("attempt", attempts_are(lambda attempts: attempts * 2)),
    "second attempt told twice": ("attempt", attempts_are(only_calls_made_again_are_told_twice)),
    "attempt told under two numbers": ("attempt", attempts_are(numbered_on)),
    "all slots in one group": ("slots", one_group_has_all_slots),
    "slots for each group": ("slots", groups_have(lambda slots, groups: [slots] * groups)),
    "shares rounded up": ("slots", groups_have(lambda slots, groups: [-(-slots // groups)] * groups)),
    "uneven shares": ("slots", groups_have(lambda slots, groups: [1] * (groups - 1) + [slots - groups + 1])),
    "wrong code in the lane": ("success", another_code_in_the_lane),
    "wrong code at the gate": ("success", another_code_at_the_gate),
    "decision told twice": ("decision", decisions_are(lambda decision: [decision] * 2)),
    "decision of the dispatcher missing": ("decision", decisions_are(lambda _decision: [])),
    "decision of the gate missing": ("decision", no_decision_of_the_gate),
}


@pytest.mark.parametrize("bug", BUGS)
def test_an_early_seed_finds_a_bug_made_by_hand(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, changes = BUGS[bug]
    with monkeypatch.context() as patched:
        for target, name, value in changes():
            patched.setattr(target, name, value)
        seeds = (seed for seed in range(SEEDS) if rule in rules(simulate(plan(seed), fingerprint=False)))
        found = next(seeds, None)
    assert found is not None
    assert simulate(plan(found), fingerprint=False).violations == []


def test_an_id_used_again_for_what_left_a_stopped_gate_too_late_to_be_known_is_a_new_request() -> None:
    lived = live(plan(155166))
    facts = facts_of(lived.history, PREFIX, POOL)
    assert check(facts, lived.books).violations == []
    never_emptied = replace(lived.books, disturbances=[f for f in lived.books.disturbances if f.kind != "store-empty"])
    assert [broken.partition(":")[0] for broken in check(facts, never_emptied).violations] == ["terminal", "answer"]
    other = next(a for a in facts.asked if a.name == "acme/r13" and json.dumps("acme r13 26") not in a.body)
    again = replace(facts, asked=[*facts.asked, other._replace(entry=other.entry._replace(source="again"))])
    assert not any(broken.startswith("answer") for broken in check(again, lived.books).violations)


def test_who_is_killed_with_all_others_is_not_held_to_what_it_did_not_see() -> None:
    assert simulate(plan(1326), fingerprint=False).violations == []
    books = live(plan(3)).books
    for kind, target, undisturbed in (
        ("crash", "worker-0", True),
        ("crash-all", "worker-0", False),
        ("crash", "dispatcher-0", False),
        ("log-slow", "", False),
        ("store-empty", "", True),
    ):
        disturbed = replace(books, disturbances=[Disturbance(0.0, kind, target, 0.0)])
        assert disturbed.scheduling_undisturbed is undisturbed
