"""The table of metrics: each declared once, with kind, help and labels.

To add a metric, add a row and use its name; ``docs/operations.md`` is generated from this table. A
name is exposed with the prefix ``fairlane_``. Counters end in ``_total``; the unit of anything else
stands at the end of its name. A label takes few values: never an id of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Buckets for durations: from one hop on one machine to a long wait in a lane."""
RECORDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
"""Buckets for the size of batches."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. ``buckets`` are the upper bounds of a histogram, without infinity."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _table(*rows: MetricSpec) -> Mapping[str, MetricSpec]:
    table = {row.name: row for row in rows}
    if len(table) != len(rows):
        raise AssertionError("a metric is declared twice")
    return table


def _counter(name: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, "counter", help_text, labels)


def _gauge(name: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name, "gauge", help_text, labels)


def _histogram(name: str, help_text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> MetricSpec:
    return MetricSpec(name, "histogram", help_text, labels, buckets)


METRICS: Mapping[str, MetricSpec] = _table(
    # Engines
    _counter("engine_records_total", "Records delivered to the stage.", "stage", "topic"),
    _histogram("engine_batch_records", "Records in one batch.", "stage", buckets=RECORDS),
    _histogram("engine_process_seconds", "Time a stage took to take one batch.", "stage"),
    _gauge("engine_unfinished_records", "Records delivered whose effects are not all acknowledged.", "stage"),
    _gauge("engine_assigned_partitions", "Partitions this process owns.", "stage"),
    _counter("engine_window_full_total", "Times reading a partition paused because its window was full.", "stage"),
    _counter("engine_commits_total", "Offset commits by outcome: ok, retry or lost.", "stage", "outcome"),
    _counter("engine_rebalances_total", "Changes of ownership: assigned or revoked.", "stage", "event"),
    _counter("engine_failures_total", "Batches that raised, by kind: retry, bug or fatal.", "stage", "kind"),
    _counter("engine_poisoned_total", "Records given a terminal because every try failed.", "stage"),
    _gauge("engine_lag_records", "Records of a topic after the committed offset, over this process's partitions.",
           "stage", "topic"),
    _histogram("engine_commit_seconds", "Duration of offset commits.", "stage"),
    # Log
    _counter("publisher_records_total", "Records written, by outcome: ok, retry, poison, fatal or full.",
             "topic", "outcome"),
    _histogram("publisher_ack_seconds", "Time from the first record of a batch to its acknowledgement.", "topic"),
    _gauge("publisher_buffered_bytes", "Bytes waiting for acknowledgement."),
    # Tenants and catalog as followed by every stage
    _counter("config_records_total", "Tenant and catalog records by outcome: applied or skipped.", "topic", "outcome"),
    # Gate
    _counter("gate_requests_total", "Requests by outcome: admitted or the code they were refused with.",
             "tenant", "outcome"),
    # Admission store
    _histogram("store_seconds", "Round trips to the admission store.", "operation"),
    _counter("store_failures_total", "Round trips to the admission store that failed.", "operation"),
    _counter("store_rebuilds_total", "Times an emptied admission store was filled again from the log."),
    # Dispatcher
    _gauge("dispatcher_waiting_records", "Records waiting in the lanes.", "pool", "tenant"),
    _gauge("dispatcher_slots_busy", "Slots of the pool in use.", "pool"),
    _gauge("dispatcher_slots", "Slots of the pool.", "pool"),
    _counter("dispatcher_dispatched_total", "Records bound to a slot.", "pool", "tenant"),
    _histogram("dispatcher_queue_seconds", "Time from admission to dispatch.", "pool", "tenant"),
    _counter("dispatcher_expired_total", "Records whose deadline passed in the lane.", "pool", "tenant"),
    _counter("dispatcher_duplicates_total", "Lane records of requests that are known already.", "pool"),
    _counter("dispatcher_takeovers_total", "Times this process became the owner of the pool.", "pool"),
    _counter("dispatcher_commands_total",
             "Commands: cancelled, too_late, kept (not waiting here), dropped (never came) or unreadable.", "outcome"),
    # Worker
    _counter("worker_calls_total", "Calls to providers by how they ended.", "pool", "provider", "model", "status"),
    _histogram("worker_call_seconds", "Duration of calls to providers.", "provider", "model"),
    _gauge("worker_in_flight", "Calls in flight."),
    _counter("worker_void_records_total", "Inbox records of a dispatcher that had lost its pool.", "pool"),
    _counter("worker_redelivered_total",
             "Records a predecessor may have begun, by what became of them: answered or called_again.",
             "pool", "outcome"),
    _counter("worker_abandoned_total", "Calls given up because the slot group went to another worker.", "pool"),
    _counter("worker_results_held_total", "Calls and writes that waited because the group lease was not certain."),
    _counter("worker_full_total", "Times taking records waited for a free place."),
    _counter("worker_usage_estimated_total", "Calls whose provider reported no usage.", "provider", "model"),
    _counter("worker_cost_above_hold_total", "Results billed at their hold because usage exceeded it.",
             "provider", "model"),
    _counter("worker_answers_too_large_total", "Answers that no record can hold.", "provider", "model"),
    # Settle
    _counter("settle_results_total", "Results booked, by whether it was the first time.", "first"),
    # Sinks
    _counter("sink_rows_total", "Rows inserted.", "table"),
    _counter("sink_inserts_total", "Inserts by outcome: ok or retry.", "table", "outcome"),
    _histogram("sink_insert_seconds", "Duration of inserts.", "table"),
    _counter("sink_skipped_total", "Records that got no row, by why: undecodable or repeated.", "table", "reason"),
    _gauge("sink_buffered_rows", "Rows read from the log and not yet inserted."),
    _histogram("sink_insert_rows", "Rows of one insert.", "table", buckets=RECORDS),
    # Telemetry about itself
    _counter("telemetry_folded_total", "Updates whose label had too many values and became `other`.", "label"),
)  # fmt: skip
