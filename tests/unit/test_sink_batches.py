"""Batches of a sink: when they are due, what is in them, and how an intended one is rebuilt."""

from __future__ import annotations

import pytest

from fairlane.ports import TopicPartition
from fairlane.sinks.base import Entry, PartitionBuffer
from fairlane.sinks.pacing import Pace
from fairlane.sinks.ranges import IntendedRange, parse_range
from fairlane.sinks.winners import RecentKeys

RESULTS_3 = TopicPartition("fairlane.results", 3)


def entries(first: int, last: int) -> list[Entry]:
    return [Entry(offset, (offset,)) for offset in range(first, last + 1)]


def buffer(base: int = 0, *, intended: IntendedRange | None = None) -> PartitionBuffer:
    return PartitionBuffer(base, batch_rows=10, batch_age_s=0.5, intended=intended)


def test_a_batch_is_due_when_it_is_full() -> None:
    made = buffer()
    made.add(entries(0, 8), now=0.0)
    assert made.take(0.0) is None
    made.add(entries(9, 12), now=0.0)
    batch = made.take(0.0)
    assert batch is not None
    assert batch.range == IntendedRange(0, 9)
    assert batch.entries == tuple(entries(0, 9))


def test_a_batch_is_due_when_its_oldest_entry_is_old_enough() -> None:
    made = buffer()
    made.add(entries(0, 1), now=1.0)
    made.add(entries(2, 3), now=1.4)
    assert not made.due(1.49)
    batch = made.take(1.5)
    assert batch is not None
    assert batch.range == IntendedRange(0, 3)


def test_what_is_left_behind_a_batch_keeps_its_age() -> None:
    made = buffer()
    made.add(entries(0, 9), now=0.0)
    made.take(0.0)
    made.add(entries(10, 11), now=0.25)
    made.finish()
    assert made.base == 10
    assert not made.due(0.74)
    assert made.due(0.75)


def test_a_taken_batch_does_not_change_until_it_is_finished() -> None:
    made = buffer()
    made.add(entries(0, 3), now=0.0)
    first = made.take(1.0)
    made.add(entries(4, 30), now=1.0)
    assert made.take(2.0) is first
    made.finish()
    second = made.take(2.0)
    assert second is not None
    assert second.range == IntendedRange(4, 13)


def test_offsets_may_have_gaps_and_the_base_follows_the_last_one() -> None:
    made = buffer(base=5)
    made.add([Entry(7, None), Entry(11, (11,))], now=0.0)
    batch = made.take(1.0)
    assert batch is not None
    assert batch.range == IntendedRange(7, 11)
    made.finish()
    assert made.base == 12
    assert made.following == 12


def test_an_intended_range_is_rebuilt_exactly_whatever_the_limits_say_now() -> None:
    made = buffer(base=20, intended=IntendedRange(20, 34))
    made.add(entries(20, 29), now=0.0)
    assert made.take(99.0, everything=True) is None, "full and old, but not the whole range"
    assert made.restoring
    made.add(entries(30, 40), now=99.0)
    batch = made.take(99.0)
    assert batch is not None
    assert batch.range == IntendedRange(20, 34)
    assert batch.entries == tuple(entries(20, 34))
    made.finish()
    assert made.base == 35
    assert not made.restoring


def test_an_intended_range_cut_by_retention_is_rebuilt_from_what_is_left() -> None:
    made = buffer(base=20, intended=IntendedRange(20, 24))
    made.add(entries(22, 26), now=0.0)
    batch = made.take(0.0)
    assert batch is not None
    assert batch.range == IntendedRange(20, 24)
    assert batch.entries == tuple(entries(22, 24))


@pytest.mark.parametrize(("first", "why"), [(25, "the log was cut behind the range"), (3, "it is another log now")])
def test_an_intended_range_that_is_not_in_the_log_is_given_up(first: int, why: str) -> None:
    made = buffer(base=first, intended=IntendedRange(20, 24))
    made.add(entries(first, first + 1), now=0.0)
    assert not made.restoring, why
    batch = made.take(1.0)
    assert batch is not None
    assert batch.range == IntendedRange(first, first + 1)


def test_a_range_survives_the_way_through_the_commit_metadata() -> None:
    intended = IntendedRange(41, 977)
    assert parse_range(intended.metadata()) == intended
    assert intended.token("requests", RESULTS_3) == "requests:fairlane.results:3:41-977"


@pytest.mark.parametrize("text", ["", "range:", "range:9-3", "range:1-2x", "x range:1-2", "range:-1-2", "{}"])
def test_foreign_metadata_is_no_range(text: str) -> None:
    assert parse_range(text) is None


def test_a_key_counts_once_within_the_span() -> None:
    recent = RecentKeys(span=100)
    assert recent.first_time(b"a", 0)
    assert not recent.first_time(b"a", 100), "100 offsets before is still seen"
    assert recent.first_time(b"b", 150)
    assert recent.first_time(b"a", 201), "101 offsets before is not"


def test_keys_read_back_over_the_span_give_the_answers_of_the_process_before() -> None:
    log = [(offset, f"k{offset * 7919 % 23}".encode()) for offset in range(400)]
    whole = RecentKeys(span=50)
    answers = {offset: whole.first_time(key, offset) for offset, key in log}
    for base in (60, 201, 399):
        restored = RecentKeys(span=50)
        for offset, key in log[base - 50 : base]:
            restored.first_time(key, offset)
        assert {o: restored.first_time(k, o) for o, k in log[base:]} == {o: answers[o] for o, _ in log[base:]}


def test_inserts_take_at_most_their_share_of_time_unless_they_are_large() -> None:
    pace = Pace(share=0.1, worthwhile_rows=1000)
    assert pace.may_start(0.0, rows_per_insert=1)
    pace.spent(0.0, 0.25)
    assert not pace.may_start(2.4, rows_per_insert=999)
    assert pace.may_start(2.4, rows_per_insert=1000)
    assert pace.may_start(2.5, rows_per_insert=1)


def test_a_slow_insert_holds_rows_back_for_a_bounded_time() -> None:
    pace = Pace(share=0.1, worthwhile_rows=1000, longest_s=5.0)
    pace.spent(100.0, 102.0)  # a tenth of the time would be eighteen seconds from here
    assert not pace.may_start(106.9, rows_per_insert=10)
    assert pace.may_start(107.0, rows_per_insert=10)


def test_old_keys_are_forgotten() -> None:
    recent = RecentKeys(span=1000)
    for offset in range(20_000):
        assert recent.first_time(str(offset).encode(), offset)
        assert len(recent._last) <= 1251
    assert not recent.first_time(b"19000", 20_000)
    assert recent.first_time(b"18999", 20_001)
