"""The judge of `make chaos`: a sound chain counts nothing, and each way of breaking it is counted."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from fairlane.ports import TenantUsage
from tests.chaos.catalogue import FAULTS, SHORT
from tests.chaos.experiment import missed, untested
from tests.chaos.fault import Fault
from tests.chaos.judge import Counts, Evidence, judge, late_of, settled
from tests.chaos.load import Sent
from tests.chaos.log_observer import TOPICS, Seen
from tests.chaos.probes import Booked, UsageSample
from tests.chaos.stack_config import CAPS, CROWDED

RUN = "run-1"
KEY = f"acme/{RUN}-0"
COST, HOLD = 700, 1_000


def seen(topic: str, offset: int, key: str, document: dict[str, Any], source: str = "", at_s: float = 10.0) -> Seen:
    headers = {"fairlane-source": source} if source else {}
    return Seen(f"fairlane.{topic}", 0, offset, at_s, at_s, key, document, headers)


def result(offset: int, source: str = "fairlane.inbox.main/0/0", **changes: Any) -> Seen:
    document = {
        "tenant_id": "acme", "request_id": f"{RUN}-0", "status": "succeeded", "cost": {"nano_usd": COST},
        "attempts": 1, "replayed": False, **changes,
    }  # fmt: skip
    return seen("results", offset, KEY, document, source)


def row(offset: int, cost: int = 0, tenant: str = "acme", request: str = f"{RUN}-0") -> dict[str, Any]:
    return {
        "log_partition": 0, "log_offset": str(offset), "tenant_id": tenant, "request_id": request,
        "cost_nano_usd": str(cost),
    }  # fmt: skip


@pytest.fixture
def sound() -> Evidence:
    """One good request, answered and billed, and one record that is no JSON."""
    ids = {"tenant_id": "acme", "request_id": f"{RUN}-0"}
    log: dict[str, list[Seen]] = {topic: [] for topic in TOPICS}
    log["requests"] = [seen("requests", 0, "", ids), seen("requests", 1, "", {})]
    log["lanes.main"] = [seen("lanes.main", 0, KEY, {**ids, "hold_nano_usd": HOLD}, "fairlane.requests/0/0")]
    log["results"] = [result(0)]
    log["attempts"] = [seen("attempts", 0, KEY, {**ids, "cost": {"nano_usd": COST}})]
    log["decisions"] = [seen("decisions", 0, KEY, {**ids, "decision_id": "d"})]
    log["dead-letters"] = [seen("dead-letters", 0, "", {}, "fairlane.requests/0/1")]
    tables = {
        "requests": [row(0, COST)], "attempts": [row(0, COST)], "decisions": [row(0)],
        "dead_letters": [row(0, tenant="", request="")],
    }  # fmt: skip
    sent = [
        Sent("good", "acme", f"{RUN}-0", 10.0, "fairlane.requests/0/0"),
        Sent("not_json", "", "", 10.0, "fairlane.requests/0/1"),
    ]
    samples = [UsageSample(10.5, 10.6, "acme", TenantUsage(HOLD, 0, 1, 0))]
    usage = {"acme": TenantUsage(0, COST, 0, 0)}
    return Evidence(RUN, sent, log, {}, samples, {"acme": COST}, usage, tables, 1, booked=[])


def changed(evidence: Evidence, **topics: list[Seen]) -> Evidence:
    return replace(evidence, log={**evidence.log, **{name.replace("_", "-"): new for name, new in topics.items()}})


def wrong(counts: Counts) -> dict[str, int]:
    names = (
        "lost", "duplicates", "raw_duplicates", "over_budget", "left_held", "redis_nano", "missing_rows",
        "extra_rows", "clickhouse_nano",
    )  # fmt: skip
    return {name: value for name in names if (value := getattr(counts, name))}


def test_a_sound_chain_counts_nothing_wrong(sound: Evidence) -> None:
    counts = judge(sound)
    assert wrong(counts) == {}
    assert (counts.requests, counts.good, counts.succeeded, counts.calls_per_request) == (2, 1, 1, 1.0)
    assert settled(sound)


def test_a_request_without_terminal_is_lost(sound: Evidence) -> None:
    assert judge(changed(sound, results=[])).lost == 1
    assert judge(changed(sound, dead_letters=[])).lost == 1
    assert not settled(changed(sound, dead_letters=[]))


def test_an_acknowledged_request_that_is_not_in_the_log_is_lost(sound: Evidence) -> None:
    ghost = Sent("good", "acme", f"{RUN}-7", 10.0, "fairlane.requests/0/7")
    assert judge(replace(sound, sent=[*sound.sent, ghost])).lost == 1


def test_a_second_terminal_is_a_raw_duplicate_though_the_first_one_wins(sound: Evidence) -> None:
    assert wrong(judge(changed(sound, results=[result(0), result(1)]))) == {"raw_duplicates": 1}


def test_an_answer_to_one_who_asked_again_is_no_duplicate(sound: Evidence) -> None:
    again = seen("requests", 2, "", {"tenant_id": "acme", "request_id": f"{RUN}-0"})
    replay = result(1, "fairlane.requests/0/2", replayed=True, cost={"nano_usd": 0}, attempts=0)
    evidence = changed(sound, requests=[*sound.log["requests"], again], results=[result(0), replay])
    assert wrong(judge(evidence)) == {}
    twice = changed(evidence, results=[*evidence.log["results"], replay._replace(offset=2)])
    assert judge(twice).raw_duplicates == 1


def test_two_rows_of_a_request_are_a_duplicate_that_counts(sound: Evidence) -> None:
    tables = {**sound.tables, "requests": [row(0, COST), row(1, COST)]}
    assert wrong(judge(replace(sound, tables=tables))) == {"duplicates": 1, "extra_rows": 1, "clickhouse_nano": COST}


def test_a_row_of_another_result_than_the_first_is_missing_and_too_much(sound: Evidence) -> None:
    evidence = replace(
        changed(sound, results=[result(0), result(1)]), tables={**sound.tables, "requests": [row(1, COST)]}
    )
    assert wrong(judge(evidence)) == {
        "raw_duplicates": 1, "missing_rows": 1, "extra_rows": 1, "clickhouse_nano": 2 * COST,
    }  # fmt: skip


@pytest.mark.parametrize("table", ["requests", "attempts", "decisions", "dead_letters"])
def test_a_row_that_is_missing_in_any_table_is_counted(sound: Evidence, table: str) -> None:
    assert judge(replace(sound, tables={**sound.tables, table: []})).missing_rows == 1


def test_a_row_with_another_cost_is_counted_in_nano_dollars(sound: Evidence) -> None:
    tables = {**sound.tables, "attempts": [row(0, COST + 5)]}
    assert wrong(judge(replace(sound, tables=tables)))["clickhouse_nano"] == 2 * COST + 5


def test_rows_of_other_runs_are_not_judged(sound: Evidence) -> None:
    tables = {**sound.tables, "requests": [*sound.tables["requests"], row(9, 5, request="run-2-0")]}
    assert wrong(judge(replace(sound, tables=tables))) == {}
    assert judge(replace(sound, run="", tables=tables)).extra_rows == 1


def test_what_stays_held_is_counted(sound: Evidence) -> None:
    assert wrong(judge(replace(sound, usage={"acme": TenantUsage(HOLD, COST, 0, 0)}))) == {"left_held": 1}
    assert wrong(judge(replace(sound, usage={"acme": TenantUsage(0, COST, 0, 1)}))) == {"left_held": 1}


def test_what_redis_thinks_was_spent_is_compared_with_the_log(sound: Evidence) -> None:
    assert wrong(judge(replace(sound, usage={"acme": TenantUsage(0, COST + 3, 0, 0)}))) == {"redis_nano": 3}


def test_holding_more_than_was_asked_is_over_budget(sound: Evidence) -> None:
    above = copy.copy(sound.samples[0])._replace(usage=TenantUsage(HOLD + 1, 0, 1, 0))
    assert wrong(judge(replace(sound, samples=[above]))) == {"over_budget": 1}
    early = sound.samples[0]._replace(began_s=9.0, answered_s=9.9)
    assert wrong(judge(replace(sound, samples=[early]))) == {"over_budget": 1}
    assert wrong(judge(replace(sound, samples=[above], spent_before={"acme": 1}))) == {}


@pytest.mark.parametrize(
    ("began_s", "usage", "right"),
    [
        (20.0, TenantUsage(0, COST, 0, 0), True),
        (20.0, TenantUsage(1, COST, 0, 1), False),
        (20.0, TenantUsage(HOLD, 0, 1, 0), False),
        (14.9, TenantUsage(HOLD, 0, 0, 1), True),
    ],
)
def test_once_a_result_is_booked_no_more_than_its_cost_is_allowed(
    sound: Evidence, began_s: float, usage: TenantUsage, right: bool
) -> None:
    booked = [Booked(12.0, {0: 0}), Booked(15.0, {0: 1}), Booked(16.0, {})]
    late = replace(sound, samples=[UsageSample(began_s, began_s + 0.2, "acme", usage)], booked=booked)
    assert judge(late).over_budget == (not right)
    # What was booked after the question, or in another partition, takes nothing away.
    unsure = replace(late, samples=[UsageSample(14.9, 15.2, "acme", TenantUsage(HOLD, 0, 0, 1))])
    assert judge(unsure).over_budget == 0
    assert judge(replace(unsure, booked=[Booked(12.0, {1: 5})])).over_budget == 0


def test_a_hold_made_twice_is_found_though_much_was_spent_before(sound: Evidence) -> None:
    others = [f"acme/{RUN}-{number}" for number in range(1, 6)]
    hold, answer = {"tenant_id": "acme", "hold_nano_usd": HOLD}, {"cost": {"nano_usd": COST}}
    lanes = [*sound.log["lanes.main"], *(seen("lanes.main", n, key, hold) for n, key in enumerate(others, 1))]
    results = [result(0), *(seen("results", n, key, answer) for n, key in enumerate(others[:-1], 1))]
    evidence = changed(sound, **{"lanes.main": lanes}, results=results)
    asked = TenantUsage(HOLD, 5 * COST, 0, 1)
    for usage, breaches in ((asked, 0), (replace(asked, held_nano_usd=2 * HOLD), 1)):
        sample = UsageSample(20.0, 20.2, "acme", usage)
        assert judge(replace(evidence, samples=[sample], booked=[Booked(15.0, {0: 5})])).over_budget == breaches


def test_a_second_terminal_is_excused_by_no_fault_of_another_row(sound: Evidence) -> None:
    assert late_of(replace(sound, run=""), [RUN]) == []
    twice = changed(sound, results=[result(0), result(1, "fairlane.inbox.main/0/7")])
    assert "1 second terminals and 0 calls" in late_of(replace(twice, run=""), [RUN])[0]
    assert late_of(replace(twice, run=""), ["another-run"]) == []


def test_a_call_of_a_cancelled_request_is_excused_by_no_fault_of_another_row(sound: Evidence) -> None:
    cancelled = changed(sound, results=[result(0, status="cancelled")])
    assert "0 second terminals and 1 calls" in late_of(replace(cancelled, run=""), [RUN])[0]


def test_a_cost_above_its_hold_is_over_budget(sound: Evidence) -> None:
    dear = changed(sound, results=[result(0, cost={"nano_usd": HOLD + 1})])
    assert judge(dear).over_budget == 1


def test_a_good_request_that_failed_is_no_success(sound: Evidence) -> None:
    failed = changed(sound, results=[result(0, status="failed", error={"code": "internal", "message": "m"})])
    counts = judge(failed)
    assert (counts.good, counts.succeeded) == (1, 0)
    assert "internal" in counts.examples[0]


def test_calls_are_counted_for_requests_that_were_called(sound: Evidence) -> None:
    assert judge(replace(sound, calls=3)).calls_per_request == 3.0


def cancelled(evidence: Evidence, *, kind: str = "cancelled", **changes: Any) -> Evidence:
    """The good request was to be cancelled, and was: without a call, without a cost."""
    ended = result(0, status="cancelled", attempts=0, cost={"nano_usd": 0}, **changes)
    sent = [replace(evidence.sent[0], kind=kind), *evidence.sent[1:]]
    tables = {**evidence.tables, "requests": [row(0)], "attempts": []}
    return replace(
        changed(evidence, results=[ended], attempts=[]), sent=sent, tables=tables, spent={},
        usage={"acme": TenantUsage(0, 0, 0, 0)},
    )  # fmt: skip


def test_a_request_that_was_cancelled_before_it_was_called_is_counted_as_that(sound: Evidence) -> None:
    counts = judge(cancelled(sound))
    assert wrong(counts) == {}
    assert (counts.cancelled, counts.cancelled_unasked, counts.cancelled_called) == (1, 0, 0)
    assert (counts.good, counts.called) == (0, 0)


def test_a_request_to_be_cancelled_needs_one_end_like_all_others(sound: Evidence) -> None:
    completed = replace(sound, sent=[replace(sound.sent[0], kind="cancelled"), sound.sent[1]])
    assert (wrong(judge(completed)), judge(completed).cancelled) == ({}, 0)
    assert judge(changed(completed, results=[])).lost == 1
    both = changed(cancelled(sound), results=[*cancelled(sound).log["results"], result(1)])
    assert judge(both).raw_duplicates == 1


def test_a_request_nobody_cancelled_must_not_end_as_cancelled(sound: Evidence) -> None:
    assert judge(cancelled(sound, kind="crowded")).cancelled_unasked == 1


def test_a_request_that_ended_as_cancelled_must_not_have_been_called(sound: Evidence) -> None:
    assert judge(changed(cancelled(sound), attempts=list(sound.log["attempts"]))).cancelled_called == 1
    assert judge(changed(cancelled(sound), results=[result(0, status="cancelled", attempts=0)])).cancelled_called == 1


def waited(*times: tuple[float, float | None]) -> dict[str, list[Seen]]:
    """Requests of the crowded tenant: when each came into its lane, and when it was dispatched."""
    keys = [f"{CROWDED}/{RUN}-{number}" for number in range(len(times))]
    document = {"tenant_id": CROWDED, "hold_nano_usd": HOLD}
    return {
        "lanes.slow": [seen("lanes.slow", n, keys[n], document, at_s=came) for n, (came, _) in enumerate(times)],
        "inbox.slow": [
            seen("inbox.slow", n, keys[n], document, at_s=left)
            for n, (_, left) in enumerate(times) if left is not None
        ],
    }  # fmt: skip


def test_one_more_waiting_than_the_cap_allows_is_over_budget(sound: Evidence) -> None:
    full = [(10.0 + n, None) for n in range(CAPS[CROWDED])]
    at_cap = judge(changed(sound, **waited(*full)))
    assert (at_cap.over_budget, at_cap.fullest) == (0, 1.0)
    above = judge(changed(sound, **waited(*full, (20.0, None))))
    assert above.over_budget == 1
    assert "waited already" in above.examples[0]


def test_who_was_dispatched_or_ended_makes_room_under_the_cap(sound: Evidence) -> None:
    full: list[tuple[float, float | None]] = [(10.0 + n, None) for n in range(CAPS[CROWDED] - 1)]
    dispatched = waited((9.0, 20.0), *full, (20.0, None))
    assert judge(changed(sound, **dispatched)).over_budget == 0
    late = waited((9.0, 20.001), *full, (20.0, None))
    assert judge(changed(sound, **late)).over_budget == 1
    ended = late | {"results": [result(0), seen("results", 1, f"{CROWDED}/{RUN}-0", {"tenant_id": CROWDED}, at_s=19.0)]}
    assert judge(changed(sound, **ended)).over_budget == 0


def test_a_sample_with_more_waiting_than_the_cap_is_over_budget(sound: Evidence) -> None:
    sample = UsageSample(10.5, 10.6, CROWDED, TenantUsage(0, 0, CAPS[CROWDED] + 1, 0))
    assert judge(replace(sound, samples=[sample])).over_budget == 1


def test_a_run_without_a_cancelled_request_or_a_full_tenant_tested_neither() -> None:
    assert len(untested(Counts())) == 2
    assert untested(Counts(cancelled=1, fullest=1.0)) == []


@pytest.mark.parametrize("late", [True, False])
def test_a_wrong_cancellation_breaks_a_row_and_a_late_record_excuses_only_a_call(late: bool) -> None:
    fault = Fault("pause", "", (), late_records=late)
    assert missed(fault, Counts(good=1, succeeded=1), 0.0) == []
    assert len(missed(fault, Counts(good=1, succeeded=1, cancelled_unasked=1), 0.0)) == 1
    assert len(missed(fault, Counts(good=1, succeeded=1, cancelled_called=1), 0.0)) == (not late)


def test_what_the_broker_did_not_acknowledge_is_counted(sound: Evidence) -> None:
    unsure = Sent("good", "acme", f"{RUN}-7", 10.0)
    counts = judge(replace(sound, sent=[*sound.sent, unsure]))
    assert (counts.offered, counts.unacknowledged, counts.good) == (3, 1, 1)
    assert judge(sound).unacknowledged == 0


@pytest.mark.parametrize("name", [*FAULTS, SHORT.name])
def test_only_where_the_broker_is_at_fault_may_a_few_stay_unacknowledged(name: str) -> None:
    fault = {**FAULTS, SHORT.name: SHORT}[name]
    few, many = (Counts(good=1, succeeded=1, offered=100, unacknowledged=count) for count in (10, 11))
    assert bool(missed(fault, few, 0.0)) is (name not in ("kill-broker", "disk-full-broker", "short"))
    assert "not acknowledged" in missed(fault, many, 0.0)[0]
