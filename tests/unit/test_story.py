"""The story of one request, told from its records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fairlane.cli.story import Evidence, story_text, tell

REASON = {"code": "admitted", "message": "first model of auto", "limit": 10, "used": 1, "unit": "undispatched requests"}
ADMITTED: dict[str, Any] = {
    "decision_id": "fairlane.requests/0/7/admitted", "event_time": "2026-11-20T18:00:00.002Z", "stage": "gate",
    "kind": "admitted", "reason": REASON, "config_version": "t3-c7",
    "attributes": {"pool": "sim", "model": "sim-small", "hold_nano_usd": "40000", "price_id": "sim-small@2026-11-01"},
}  # fmt: skip
DISPATCHED: dict[str, Any] = {
    "decision_id": "fairlane.lanes.sim/3/9/dispatched", "event_time": "2026-11-20T18:00:01.500Z", "stage": "dispatcher",
    "kind": "dispatched", "reason": {"code": "pool_busy", "message": "all 32 slots were taken"},
    "config_version": "t3-c7", "attributes": {"waited_ms": "1498", "slot_group": "5"},
}  # fmt: skip
USAGE = {"input_tokens": 9, "cached_input_tokens": 4, "output_tokens": 12, "reasoning_tokens": 0}
ATTEMPT: dict[str, Any] = {
    "attempt_id": "acme/r-1/1", "attempt": 1, "status": "succeeded", "provider": "sim", "model": "sim-small",
    "worker": "worker-1", "started_at": "2026-11-20T18:00:01.503Z", "first_token_at": None,
    "completed_at": "2026-11-20T18:00:01.683Z", "model_ms": 180.0, "http_status": 200, "finish_reason": "stop",
    "error": None, "usage": USAGE,
}  # fmt: skip
RESULT: dict[str, Any] = {
    "tenant_id": "acme", "request_id": "r-1", "idempotency_key": "order-17", "priority": "high", "status": "succeeded",
    "error": None, "usage": USAGE, "cost": {"nano_usd": 8550, "price_id": "sim-small@2026-11-01"},
    "timings": {
        "received_at": "2026-11-20T18:00:00.000Z", "completed_at": "2026-11-20T18:00:01.690Z", "queue_ms": 1498.0,
        "model_ms": 180.0, "added_ms": 12.0,
    },
    "attempts": 1, "cached": False, "replayed": False, "labels": {"project": "search"},
}  # fmt: skip


def evidence(**changes: Any) -> Evidence:
    whole = Evidence("acme", "r-1", result=RESULT, decisions=[DISPATCHED, ADMITTED], attempts=[ATTEMPT])
    return replace(whole, **changes)


def test_the_whole_story_is_told_in_order_with_times_and_reasons() -> None:
    assert story_text(tell(evidence())) == [
        "acme/r-1: succeeded after 1.69 s (queue 1.50 s, model 180.0 ms, added 12.0 ms), $0.00000855",
        "began 2026-11-20T18:00:00.000Z",
        "",
        "+0.0 ms  received    priority high, idempotency key order-17, project=search",
        (
            "+2.0 ms  admitted    to sim-small in pool sim; first model of auto; "
            "held $0.00004 at sim-small@2026-11-01; config t3-c7"
        ),
        "+1.50 s  dispatched  waited 1.50 s: all 32 slots were taken; slot group 5; config t3-c7",
        "+1.50 s  attempt 1   calling sim-small at sim, from worker-1",
        "+1.68 s  attempt 1   succeeded after 180.0 ms, HTTP 200, finish reason stop, 9+12 tokens",
        "+1.69 s  result      succeeded, 9 (4 cached) + 12 tokens, $0.00000855 at sim-small@2026-11-01",
    ]


def test_a_decision_that_was_redelivered_is_told_once() -> None:
    assert tell(evidence(decisions=[ADMITTED, DISPATCHED, ADMITTED])) == tell(evidence())


def test_a_refusal_says_the_limit_and_what_to_do() -> None:
    reason = {
        "code": "queue_full",
        "message": "cap",
        "limit": 300,
        "used": 300,
        "unit": "requests",
        "suggestion": "Wait.",
    }
    refused = {**ADMITTED, "kind": "rejected", "reason": reason, "attributes": {}}

    (event,) = tell(Evidence("acme", "r-1", decisions=[refused])).events

    assert (event.what, event.detail) == ("rejected", "cap; 300 of 300 requests; Wait.; config t3-c7")


def test_without_a_result_the_headline_says_where_the_request_is() -> None:
    def headline(**changes: Any) -> str:
        return tell(evidence(result=None, attempts=[], **changes)).headline

    assert headline().endswith("at a worker, no result yet")
    assert headline(decisions=[ADMITTED]).endswith("waits in its lane")
    assert headline(decisions=[{**ADMITTED, "kind": "joined"}]).endswith(
        "another request with the same idempotency key"
    )
    received = {"received_at": "2026-11-20T18:00:00.000Z", "body": {"model": "auto"}}
    assert headline(decisions=[], request=received).endswith("received, not decided yet")
    assert headline(decisions=[]).endswith("nothing is known")


def test_a_dead_letter_is_told_with_its_error() -> None:
    letter = {
        "dead_letter_id": "fairlane.requests/0/7", "event_time": "2026-11-20T18:00:00Z", "stage": "gate",
        "error": {"code": "request_id_reused", "message": "m", "field": "request_id", "hint": "h"}, "redriven_at": None,
    }  # fmt: skip

    story = tell(Evidence("acme", "r-1", dead_letters=[letter]))

    assert story.headline == "acme/r-1: dead-lettered, request_id_reused"
    assert story.events[0].detail == "fairlane.requests/0/7 by gate: request_id_reused: m (field request_id) h"


def test_a_replay_costs_nothing_and_is_told_as_a_stored_answer() -> None:
    replayed = {**RESULT, "replayed": True, "cost": {"nano_usd": 0, "price_id": "sim-small@2026-11-01"}, "attempts": 0}

    assert tell(evidence(result=replayed)).events[-1].detail.endswith("tokens, a stored answer, at no cost")


def test_later_replays_of_the_answer_are_part_of_the_story() -> None:
    later = [{"request_id": "r-2", "completed_at": "2026-11-20T18:05:00.000Z"}]

    last = tell(evidence(replays=later)).events[-1]

    assert (last.what, last.after_ms) == ("replayed", 300_000)
    assert "r-2" in last.detail


def test_evidence_is_complete_only_with_all_attempts_and_the_dispatch() -> None:
    assert evidence().complete
    assert not evidence(attempts=[]).complete
    assert not evidence(decisions=[ADMITTED]).complete
    assert not evidence(result=None).complete
    assert evidence(result={**RESULT, "attempts": 0}, attempts=[], decisions=[ADMITTED]).complete
    assert not evidence(result={**RESULT, "attempts": 0}, attempts=[], decisions=[]).complete
