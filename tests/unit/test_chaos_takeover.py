"""What `make chaos` reads from the log about takeovers: owners, slots in use, and shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace

import pytest

from tests.chaos.experiment import FLOOD_RATE, FLOOD_TENANTS
from tests.chaos.load import MAX_TOKENS
from tests.chaos.log_observer import CHARGE, LogObserver, Seen, charge_limits
from tests.chaos.stack_config import NARROW_SLOTS
from tests.chaos.stack_config import WEIGHTS as CHAOS_WEIGHTS
from tests.chaos.takeover import busiest, takeovers, valid_inbox, widest_gap

POOL = "narrow"
WEIGHTS = {"acme": 1.0, "ember": 2.0}


def dispatch(at_s: float, offset: int, tenant: str, number: int, epoch: int = 1) -> Seen:
    headers = {
        "fairlane-dispatch": json.dumps({"epoch": epoch, "dispatched_ms": 0}),
        "fairlane-source": f"fairlane.lanes.narrow/0/{number}",
    }
    return Seen("fairlane.inbox.narrow", 0, offset, at_s, at_s, f"{tenant}/{number}", {"tenant_id": tenant}, headers)


def marker(at_s: float, offset: int, epoch: int) -> Seen:
    headers = {"fairlane-dispatch": json.dumps({"epoch": epoch, "dispatched_ms": 0})}
    return Seen("fairlane.inbox.narrow", 0, offset, at_s, at_s, "", {}, headers)


def ended(at_s: float, tenant: str, number: int, tokens: int = 10) -> Seen:
    headers = {"fairlane-slot": f"narrow/0/0/{tokens}"}
    return Seen("fairlane.results", 0, number, at_s, at_s, f"{tenant}/{number}", {}, headers)


def lane(tenant: str, number: int, at_s: float = 0.0) -> Seen:
    headers = {"fairlane-source": f"fairlane.requests/0/{number}"}
    return Seen("fairlane.lanes.narrow", 0, number, at_s, at_s, f"{tenant}/{number}", {"tenant_id": tenant}, headers)


def asked(number: int, max_tokens: int) -> Seen:
    """A request with a prompt of 100 bytes."""
    body = {"max_tokens": max_tokens, "messages": [{"role": "user", "content": "x" * 100}]}
    return Seen("fairlane.requests", 0, number, 0.0, 0.0, "", {CHARGE: charge_limits({"body": body})}, {})


def log(inbox: list[Seen], results: list[Seen], max_tokens: int = 1000) -> dict[str, list[Seen]]:
    lanes = [lane(one.key.split("/")[0], int(one.key.split("/")[1])) for one in inbox if one.document]
    requests = [asked(one.offset, max_tokens) for one in lanes]
    return {"requests": requests, "inbox.narrow": inbox, "lanes.narrow": lanes, "results": results, "decisions": []}


def test_a_takeover_is_a_new_epoch_and_its_gap_is_between_dispatches() -> None:
    inbox = [
        dispatch(10, 0, "acme", 0),
        marker(14, 1, 2),
        dispatch(15, 2, "acme", 1, 2),
        dispatch(15.1, 3, "acme", 2, 2),
    ]
    assert takeovers(log(inbox, []), POOL) == [(15, 5)]


def test_the_first_owner_took_over_from_nobody() -> None:
    assert takeovers(log([dispatch(10, 0, "acme", 0)], []), POOL) == []


def test_what_an_old_owner_wrote_behind_the_marker_is_void() -> None:
    inbox = [marker(14, 0, 2), dispatch(13, 1, "acme", 0, 1), dispatch(15, 2, "acme", 1, 2)]
    assert [one.offset for one in valid_inbox(inbox)] == [2]


def test_slots_are_busy_from_dispatch_to_terminal() -> None:
    inbox = [dispatch(float(n), n, "acme", n) for n in range(3)]
    results = [ended(2.0, "acme", 0)]
    assert busiest(log(inbox, results), POOL, 0, 10) == 2
    assert busiest(log(inbox, []), POOL, 0, 10) == 3
    assert busiest(log(inbox, results), POOL, 0, 0.5) == 1


def served(order: str) -> dict[str, list[Seen]]:
    """Tenants by their first letter, in the order of their dispatches; all had been waiting since long before."""
    names = {"a": "acme", "e": "ember"}
    inbox = [dispatch(10 + n / 10, n, names[letter], n) for n, letter in enumerate(order)]
    return log(inbox, [ended(20.0, names[letter], n) for n, letter in enumerate(order)])


def test_shares_by_weight_stay_within_the_bound() -> None:
    gap = widest_gap(served("aee" * 20), POOL, WEIGHTS, slots=2)
    assert gap is not None
    assert gap.width <= gap.bound


def test_a_tenant_that_gets_nothing_while_it_waits_breaks_the_bound() -> None:
    gap = widest_gap(served("a" * 20 + "e"), POOL, WEIGHTS, slots=2)
    assert gap is not None
    assert gap.width > gap.bound


def charged(log: dict[str, list[Seen]], units: Mapping[int, int]) -> dict[str, list[Seen]]:
    """The log with decisions that tell what these were charged."""
    decisions = [
        one._replace(document={"kind": "dispatched", "attributes": {"charged_units": str(units[one.offset])}})
        for one in log["inbox.narrow"]
        if one.offset in units
    ]
    return log | {"decisions": decisions}


@pytest.mark.parametrize(("number", "excused"), [(1, False), (9, True)])
def test_an_error_in_flight_when_a_tenant_came_counts_and_an_older_one_does_not(number: int, excused: bool) -> None:
    # ember comes at 10.95, when the first ten calls of acme have gone out, and both are seen waiting at 12.
    log = served("a" * 40 + "e" * 40)
    log["lanes.narrow"] = [one._replace(at_s=10.95) if one.key.startswith("e") else one for one in log["lanes.narrow"]]
    gap = widest_gap(charged(log, {number: 2000}), POOL, WEIGHTS, slots=2)
    quiet = widest_gap(log, POOL, WEIGHTS, slots=2)
    assert gap is not None
    assert quiet is not None
    # The largest cost counts the error as well, wherever it was.
    assert (gap.bound > quiet.bound + 2 * 2000) is excused


SERVED_A_SECOND = 56.0


def flood(seconds: float, goes_next: Callable[[list[int], Mapping[int, float]], int]) -> dict[str, list[Seen]]:
    """The flood of ``make chaos``, served in an order: it is told who waits, by number, and what each tenant got."""
    tenants = [FLOOD_TENANTS[number % len(FLOOD_TENANTS)] for number in range(round(seconds * FLOOD_RATE))]
    got = dict.fromkeys(CHAOS_WEIGHTS, 0.0)
    inbox: list[Seen] = []
    waiting: list[int] = []
    came = 0
    for turn in range(round(seconds * SERVED_A_SECOND)):
        at_s = (turn + 1) / SERVED_A_SECOND
        while came < len(tenants) and came / FLOOD_RATE <= at_s:
            waiting.append(came)
            came += 1
        number = goes_next(waiting, {each: got[tenants[each]] for each in waiting})
        waiting.remove(number)
        got[tenants[number]] += 1 / CHAOS_WEIGHTS[tenants[number]]
        inbox.append(dispatch(at_s, turn, tenants[number], number))
    lanes = [lane(tenant, number, number / FLOOD_RATE) for number, tenant in enumerate(tenants)]
    results = [ended(seconds, one.key.split("/")[0], int(one.key.split("/")[1]), MAX_TOKENS) for one in inbox]
    return log(inbox, results, MAX_TOKENS) | {"lanes.narrow": lanes}


def test_first_come_first_served_breaks_the_bound_in_the_flood_that_faults_are_made_in() -> None:
    gap = widest_gap(flood(8.0, lambda waiting, _: waiting[0]), POOL, CHAOS_WEIGHTS, NARROW_SLOTS)
    assert gap is not None
    assert gap.width > 3 * gap.bound


@pytest.mark.parametrize("wrong_by", [-500, 500])
def test_a_dispatcher_that_claims_wrong_charges_does_not_excuse_that_order(wrong_by: int) -> None:
    log = flood(8.0, lambda waiting, _: waiting[0])
    claimed = charged(log, dict.fromkeys(range(len(log["inbox.narrow"])), 2 * MAX_TOKENS + wrong_by))
    gap = widest_gap(claimed, POOL, CHAOS_WEIGHTS, NARROW_SLOTS)
    assert gap is not None
    assert gap.width > gap.bound


def test_a_charge_excuses_nothing_where_the_request_was_not_seen() -> None:
    log = served("a" * 20 + "e")
    gap = widest_gap(charged(log, dict.fromkeys(range(20), 2000)) | {"requests": []}, POOL, WEIGHTS, slots=2)
    assert gap == widest_gap(log, POOL, WEIGHTS, slots=2)


@pytest.mark.parametrize("body", [None, [], {}, {"max_tokens": "many", "messages": []}, {"max_tokens": 1}])
def test_what_is_no_good_request_has_no_limits_of_its_charge(body: object) -> None:
    assert charge_limits({"body": body}) is None


def test_of_a_request_in_the_log_is_kept_what_it_may_be_charged_and_not_its_body() -> None:
    body = {"max_tokens": 24, "messages": [{"role": "user", "content": "x" * 100}]}
    value = json.dumps({"tenant_id": "acme", "request_id": "r", "body": body}).encode()
    observer = LogObserver("", "fairlane.")
    for each in (value, b"no JSON"):
        record = SimpleNamespace(partition=0, offset=0, timestamp=0, key=None, value=each, headers=[])
        observer._take("requests", "fairlane.requests", record, 0.0)
    good, bad = observer.records["requests"]
    assert good.document == {"tenant_id": "acme", "request_id": "r", CHARGE: (32, 80)}
    assert bad.document == {}


def test_a_fair_order_of_that_flood_keeps_the_bound_and_all_tenants_wait() -> None:
    def least_served(waiting: list[int], got: Mapping[int, float]) -> int:
        return min(waiting, key=lambda each: (got[each], each))

    log = flood(20.0, least_served)
    gap = widest_gap(log, POOL, CHAOS_WEIGHTS, NARROW_SLOTS)
    assert gap is not None
    assert gap.width <= gap.bound
    dispatched = {one.key for one in log["inbox.narrow"]}
    assert {one.key.split("/")[0] for one in log["lanes.narrow"] if one.key not in dispatched} == set(CHAOS_WEIGHTS)


@pytest.mark.parametrize("order", ["", "aaaa"])
def test_where_no_two_tenants_wait_there_is_no_gap(order: str) -> None:
    assert widest_gap(served(order), POOL, WEIGHTS, slots=2) is None
