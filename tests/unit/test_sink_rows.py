"""From records to rows: every field in its column, and what no column can hold is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fairlane.errors import Poison
from fairlane.ports import TopicPartition
from fairlane.schemas import topics
from fairlane.schemas.base import WireModel
from fairlane.schemas.codec import decode
from fairlane.sinks.base import PartitionBuffer
from fairlane.sinks.partition import OwnedPartition
from fairlane.sinks.rows import FEEDS, feeds_by_topic
from fairlane.sinks.tables import Feed
from fairlane.sinks.winners import RecentKeys
from fairlane.telemetry import NO_METRICS, PrometheusMetrics
from tests import sink_samples as samples

COMPLETED_MS = 1_795_197_630_123
BY_TABLE = {feed.table.name: feed for feed in FEEDS}


def row_of(table: str, model: WireModel, **where: Any) -> dict[str, Any]:
    feed = BY_TABLE[table]
    record = samples.record(model, topic=feed.topic.full_name("fairlane."), **where)
    decoded = decode(feed.model, record.value or b"")
    return dict(zip(feed.table.names, feed.row(decoded, record), strict=True))


def owned(feed: Feed) -> OwnedPartition:
    tp = TopicPartition(feed.topic.full_name("fairlane."), 0)
    part = OwnedPartition(tp, feed, RecentKeys(100), NO_METRICS)
    part.buffer = PartitionBuffer(0, 1000, 0.0)
    return part


def rows_of(part: OwnedPartition) -> list[Any]:
    assert part.buffer is not None
    batch = part.buffer.take(1.0, everything=True)
    return [entry.row for entry in batch.entries] if batch is not None else []


def test_every_public_topic_with_a_table_has_a_feed() -> None:
    assert {feed.topic for feed in FEEDS} == {topics.RESULTS, topics.ATTEMPTS, topics.DECISIONS, topics.DEAD_LETTERS}
    assert next(iter(feeds_by_topic("p."))) == "p.results"


def test_a_result_becomes_a_row_with_every_figure() -> None:
    trace = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)
    row = row_of("requests", samples.result(), partition=5, offset=77, headers=trace)
    assert row == {
        "tenant_id": "acme",
        "request_id": "r-1",
        "idempotency_key": "key-r-1",
        "status": "succeeded",
        "error_code": "",
        "priority": "normal",
        "pool": "sim",
        "provider": "sim",
        "model": "sim-small",
        "route": "first of route auto",
        "received_at": COMPLETED_MS - 1000,
        "admitted_at": COMPLETED_MS - 900,
        "dispatched_at": None,
        "first_token_at": None,
        "completed_at": COMPLETED_MS,
        "event_time": COMPLETED_MS,
        "queue_ms": 3.25,
        "model_ms": 180.5,
        "added_ms": 6.5,
        "input_tokens": 9,
        "cached_input_tokens": 2,
        "output_tokens": 12,
        "reasoning_tokens": 3,
        "cost_nano_usd": 8550,
        "price_id": "sim-small@2026-11-01",
        "attempts": 1,
        "cached": False,
        "replayed": False,
        "labels": {"project": "suche für ä"},
        "config_version": "t5-c9",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "log_partition": 5,
        "log_offset": 77,
    }


def test_a_refused_request_is_a_row_with_its_code_and_without_a_route() -> None:
    row = row_of("requests", samples.rejected())
    assert (row["status"], row["error_code"], row["pool"], row["price_id"]) == ("rejected", "queue_full", "", "")
    assert (row["cost_nano_usd"], row["idempotency_key"], row["trace_id"]) == (0, "", "")


def test_the_time_of_an_attempt_is_when_it_completed() -> None:
    row = row_of("attempts", samples.attempt(2), offset=4)
    assert (row["event_time"], row["started_at"]) == (COMPLETED_MS, COMPLETED_MS - 200)
    assert (row["attempt"], row["status"], row["error_code"]) == (2, "failed", "provider_timeout")
    assert (row["http_status"], row["log_offset"]) == (200, 4)


def test_a_decision_keeps_its_reason_in_columns() -> None:
    row = row_of("decisions", samples.decision())
    assert (row["kind"], row["reason_code"], row["reason_limit"], row["reason_used"]) == (
        "rejected", "queue_full", 100, 100,
    )  # fmt: skip
    assert (row["reason_unit"], row["reason_suggestion"], row["attributes"]) == ("requests", "", {"pool": "sim"})


def test_a_dead_letter_says_where_its_bytes_are() -> None:
    row = row_of("dead_letters", samples.dead_letter())
    assert (row["source_topic"], row["source_partition"], row["source_offset"]) == ("fairlane.requests", 3, 7)
    assert (row["error_code"], row["tenant_id"], row["redriven_at"]) == ("invalid_json", "", None)


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("requests", samples.result(completed=datetime(2106, 1, 1, tzinfo=UTC))),
        ("requests", samples.result(attempts=1 << 32)),
        ("attempts", samples.attempt(http_status=-1)),
        ("decisions", samples.decision(limit=1 << 63)),
    ],
)
def test_values_no_column_can_hold_are_refused(table: str, model: WireModel) -> None:
    with pytest.raises(Poison):
        row_of(table, model)


def test_only_the_first_terminal_of_a_key_is_a_row() -> None:
    part = owned(BY_TABLE["requests"])
    first, second = samples.result(nano_usd=1), samples.result(nano_usd=2)
    part.take([samples.record(first, offset=0), samples.record(second, offset=1)], now=0.0)
    rows = rows_of(part)
    assert rows[0] is not None
    assert rows[1] is None


def test_a_decision_published_twice_is_one_row_and_an_attempt_is_a_fact_each_time() -> None:
    for table, model, wanted in (("decisions", samples.decision(), 1), ("attempts", samples.attempt(), 2)):
        part = owned(BY_TABLE[table])
        part.take([samples.record(model, offset=offset) for offset in (0, 1)], now=0.0)
        assert sum(row is not None for row in rows_of(part)) == wanted


def test_garbage_is_counted_and_skipped_and_takes_no_ones_place() -> None:
    part = owned(BY_TABLE["requests"])
    part.metrics = PrometheusMetrics()
    good = samples.result()
    part.take(
        [
            samples.record(None, offset=0, value=b"\xff not json", key=b"acme/r-1"),
            samples.record(None, offset=1, value=None, key=b"acme/r-1"),
            samples.record(samples.result("other"), offset=2, key=b"acme/r-1"),
            samples.record(samples.result(completed=datetime(2106, 1, 1, tzinfo=UTC)), offset=3),
            samples.record(good, offset=4),
        ],
        now=0.0,
    )
    rows = rows_of(part)
    assert rows[:4] == [None] * 4
    assert rows[4] is not None
    assert b'sink_skipped_total{reason="undecodable",table="requests"} 4.0' in part.metrics.exposition()


def test_what_is_only_remembered_was_counted_by_who_took_it() -> None:
    part = owned(BY_TABLE["requests"])
    part.metrics = PrometheusMetrics()
    junk = samples.record(None, offset=0, value=b"no JSON", key=b"k")
    part.remember([junk, *(samples.record(samples.result("a"), offset=offset) for offset in (1, 2))])
    assert b"sink_skipped_total{" not in part.metrics.exposition()
    part.take([samples.record(samples.result("a"), offset=3)], now=0.0)
    assert b'sink_skipped_total{reason="repeated",table="requests"} 1.0' in part.metrics.exposition()


def test_a_record_delivered_again_is_taken_once() -> None:
    part = owned(BY_TABLE["requests"])
    part.take([samples.record(samples.result("a"), offset=0)], now=0.0)
    part.take([samples.record(samples.result("a"), offset=0), samples.record(samples.result("b"), offset=1)], now=0.0)
    assert [row[1] for row in rows_of(part)] == ["a", "b"]


def test_a_replay_of_the_same_request_asks_whether_the_table_has_it() -> None:
    part = owned(BY_TABLE["requests"])
    part.take([samples.record(samples.result(replayed=True), offset=0)], now=0.0)
    assert part.buffer is not None
    batch = part.buffer.take(1.0)
    assert batch is not None
    assert batch.entries[0].unless_present == ("acme", "r-1")
