"""The demo's verdict is computed: each invariant, once broken, is seen to break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from fairlane.devstack.demo.facts import Key, Ledger, RunFacts, Terminal, percentile, winners
from fairlane.devstack.demo.verdict import Check, judge, passed

ANSWERED = "Every request has a terminal result"
DUPLICATES = "No request has two results in the log"
UNASKED = "Every result answers a request of this run"
DEAD = "Nothing was dead-lettered"
ROWS = "ClickHouse has one row for each result"
COSTS = "Each row has its result's status and cost, to the nano-dollar"
MONEY = "Results = ClickHouse = Redis, per tenant"
SHARES = "The tenants' shares of service add up to the whole"
HOLDS = "All holds are released"
IN_FLIGHT = "Nothing waits and nothing is in flight"
SUCCESS = "Every light tenant's request succeeds, and some of the flooder's"
REFUSALS = "Nothing failed but what the flooder's cap refused"
OVERLOAD = "The flood overloaded the pool"
FAIR = "The flooder waits for itself: the others' p99 wait stays low"


def terminal(tenant: str, number: int, **changes: object) -> Terminal:
    flooder = tenant == "flooder"
    made = Terminal(
        tenant_id=tenant, request_id=f"r-{number}", status="succeeded", error_code=None, cost_nano_usd=8550 + number,
        input_tokens=10, output_tokens=number + 1, queue_ms=4000.0 + number if flooder else 20.0 + number,
        model_ms=180.0, added_ms=6.0, received_ms=1_000, completed_ms=2_000, partition=0,
        offset=number + (100 if flooder else 0),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


REFUSED = terminal(
    "flooder", 9, status="rejected", error_code="queue_full", cost_nano_usd=0, input_tokens=0, output_tokens=0,
    queue_ms=0.0, model_ms=0.0,
)  # fmt: skip


def good_run() -> RunFacts:
    log = [*(terminal("flooder", number) for number in range(6)), REFUSED]
    log += [terminal("light", number) for number in range(4)]
    return with_log(log)


def with_log(log: list[Terminal]) -> RunFacts:
    """A run in which everything agrees with these records."""
    spent = {
        tenant: sum(item.cost_nano_usd for item in winners(log).values() if item.tenant_id == tenant)
        for tenant in ("flooder", "light")
    }
    return RunFacts(
        sent=list(winners(log)),
        log=log,
        rows=list(winners(log).values()),
        ledgers={tenant: Ledger(amount, 0, 0, 0) for tenant, amount in spent.items()},
        flooder="flooder",
    )


def changed_row(facts: RunFacts, **changes: object) -> RunFacts:
    rows = list(facts.rows)
    rows[0] = replace(rows[0], **changes)  # type: ignore[arg-type]
    return replace(facts, rows=rows)


def changed_ledger(facts: RunFacts, **changes: int) -> RunFacts:
    return replace(facts, ledgers={**facts.ledgers, "light": replace(facts.ledgers["light"], **changes)})


def spent_moved_between_tenants(facts: RunFacts) -> RunFacts:
    moved = {
        "flooder": replace(facts.ledgers["flooder"], spent_nano_usd=facts.ledgers["flooder"].spent_nano_usd - 1),
        "light": replace(facts.ledgers["light"], spent_nano_usd=facts.ledgers["light"].spent_nano_usd + 1),
    }
    return replace(facts, ledgers=moved)


def log_with(**changes: object) -> Callable[[RunFacts], RunFacts]:
    """The light tenant's last result changed, in the log and everywhere else."""
    return lambda facts: with_log([*facts.log[:-1], replace(facts.log[-1], **changes)])  # type: ignore[arg-type]


def failures(facts: RunFacts) -> set[str]:
    return {check.name for check in judge(facts) if not check.passed}


def test_a_good_run_passes_every_check() -> None:
    checks = judge(good_run())

    assert passed(checks)
    assert [check for check in checks if check.detail] == []
    assert len({check.name for check in checks}) == len(checks)


BREAKS: list[tuple[str, Callable[[RunFacts], RunFacts], set[str]]] = [
    ("a request without a result", lambda f: replace(f, sent=[*f.sent, ("flooder", "r-lost")]), {ANSWERED}),
    (
        "nothing was sent at all",
        lambda f: RunFacts([], [], [], {}, "flooder"),
        {ANSWERED, SHARES, SUCCESS, OVERLOAD, FAIR},
    ),
    ("a second terminal of a key", lambda f: replace(f, log=[*f.log, replace(f.log[0], offset=999)]), {DUPLICATES}),
    (
        "a result nobody asked for",
        lambda f: replace(f, sent=[key for key in f.sent if key != ("flooder", "r-1")]),
        {UNASKED},
    ),
    ("a dead letter", lambda f: replace(f, dead_letters=1), {DEAD}),
    ("a row is missing", lambda f: replace(f, rows=[row for row in f.rows if row is not REFUSED]), {ROWS}),
    ("a row stands twice", lambda f: replace(f, rows=[*f.rows, REFUSED]), {ROWS}),
    (
        "a row for an unknown request",
        lambda f: replace(f, rows=[*f.rows, replace(REFUSED, request_id="x")]),
        {ROWS, COSTS},
    ),
    ("a row has another status", lambda f: changed_row(f, status="failed"), {COSTS}),
    ("a row costs a nano-dollar more", lambda f: changed_row(f, cost_nano_usd=8551), {COSTS, MONEY}),
    ("Redis booked a nano-dollar less", lambda f: changed_ledger(f, spent_nano_usd=1), {MONEY}),
    ("Redis booked it to another tenant", spent_moved_between_tenants, {MONEY}),
    ("a row has another number of tokens", lambda f: changed_row(f, output_tokens=99), {SHARES}),
    ("a hold is left", lambda f: changed_ledger(f, held_nano_usd=1), {HOLDS}),
    ("a hold was released twice", lambda f: changed_ledger(f, held_nano_usd=-1), {HOLDS}),
    ("a request still waits", lambda f: changed_ledger(f, undispatched=1), {IN_FLIGHT}),
    ("a request is still in flight", lambda f: changed_ledger(f, in_flight=1), {IN_FLIGHT}),
    ("a light tenant's request failed", log_with(status="failed", error_code="internal"), {SUCCESS, REFUSALS}),
    ("a light tenant was refused", log_with(status="rejected", error_code="queue_full"), {SUCCESS, REFUSALS}),
    ("a light tenant waited as long as the flooder", log_with(queue_ms=4000.0), {FAIR}),
    (
        "the flooder did not wait",
        lambda f: with_log([replace(item, queue_ms=1.0) for item in f.log]),
        {OVERLOAD, FAIR},
    ),
    (
        "the flooder got nothing",
        lambda f: with_log([item for item in f.log if item.tenant_id != "flooder"] + [REFUSED]),
        {SUCCESS, OVERLOAD, FAIR},
    ),
]


@pytest.mark.parametrize(("breaks", "expected"), [row[1:] for row in BREAKS], ids=[row[0] for row in BREAKS])
def test_a_broken_invariant_fails_its_check_and_no_other(
    breaks: Callable[[RunFacts], RunFacts], expected: set[str]
) -> None:
    assert failures(breaks(good_run())) == expected


def test_every_check_is_broken_by_at_least_one_case() -> None:
    broken = set().union(*(row[2] for row in BREAKS))

    assert broken == {check.name for check in judge(good_run())}


def test_a_result_of_a_request_whose_acknowledgement_failed_is_no_stranger() -> None:
    facts = good_run()
    unsure: Key = facts.sent[0]

    assert passed(judge(replace(facts, sent=facts.sent[1:], unsure=frozenset({unsure}))))


def test_a_failed_check_names_examples_but_not_all() -> None:
    lost = [("light", f"lost-{number}") for number in range(10)]
    facts = replace(good_run(), sent=[*good_run().sent, *lost])

    check: Check = next(check for check in judge(facts) if check.name == ANSWERED)

    assert check.detail == "without: light/lost-0, light/lost-1, light/lost-2 and 7 more"
    assert (check.expected, check.found) == ("21 answered", "11 answered")


def test_the_lowest_offset_of_a_key_wins() -> None:
    late, early = terminal("a", 1, offset=9, status="failed"), terminal("a", 1, offset=3)

    assert winners([late, early])[("a", "r-1")] is early


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (99, 4.0), (100, 4.0), (1, 1.0)])
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == expected
    assert percentile([], percent) == 0.0
