"""The commit tracker, example by example."""

from __future__ import annotations

import pytest

from fairlane.policy.offsets import (
    METADATA_BYTES,
    NOTE_CHARS,
    SPAN_LIMIT,
    CommitTracker,
    decode_metadata,
)


def taken(base: int, count: int, *, window: int = 5_000) -> CommitTracker:
    tracker = CommitTracker(base, window=window)
    for offset in range(base, base + count):
        assert tracker.take(offset)
    return tracker


def test_a_record_in_flight_at_the_head_holds_the_commit_back() -> None:
    """Faust 0.15.3 commits 4 here (its issue 606): it takes the committed offset for the last finished one."""
    tracker = taken(0, 4)
    for offset in (1, 2, 3):
        tracker.done(offset)
    assert tracker.position()[0] == 0
    tracker.done(0)
    assert tracker.position() == (4, "")


def test_a_head_in_flight_in_the_middle_of_a_log_is_not_skipped() -> None:
    """Faust 0.15.3 commits 2590 here, past the record in flight at 2585."""
    tracker = taken(2585, 5)
    for offset in range(2586, 2590):
        tracker.done(offset)
    assert tracker.base == 2585


def test_what_finished_beyond_the_commit_is_not_delivered_to_a_successor() -> None:
    tracker = taken(100, 10)
    for offset in (101, 102, 105):
        tracker.done(offset)
    offset, metadata = tracker.position("epoch=7")
    finished, note = decode_metadata(offset, metadata)
    assert (offset, set(finished), note) == (100, {101, 102, 105}, "epoch=7")
    successor = CommitTracker(offset, finished)
    assert [o for o in range(100, 112) if successor.take(o)] == [100, 103, 104, 106, 107, 108, 109, 110, 111]


def test_a_commit_before_everything_was_read_again_keeps_what_a_predecessor_finished() -> None:
    successor = CommitTracker(100, {105, 106, 300})
    successor.take(100)
    assert decode_metadata(*successor.position())[0] == {105, 106, 300}


def test_a_gap_in_the_log_counts_as_finished() -> None:
    tracker = CommitTracker(0)
    tracker.take(0)
    tracker.take(7)
    tracker.done(0)
    assert tracker.base == 7
    tracker.done(7)
    assert tracker.base == 8


def test_a_record_taken_twice_while_open_is_delivered_again_and_once_finished_is_not() -> None:
    tracker = taken(0, 2)
    assert tracker.take(1)
    tracker.done(1)
    assert not tracker.take(1)
    assert tracker.unfinished == 1


def test_done_is_idempotent_and_ignores_what_was_never_taken() -> None:
    tracker = taken(5, 1)
    tracker.done(99)
    tracker.done(5)
    tracker.done(5)
    assert tracker.base == 6


def test_a_partition_is_full_at_its_window_and_open_again_below_it() -> None:
    tracker = taken(0, 3, window=3)
    assert tracker.full
    tracker.done(2)
    assert not tracker.full


def test_one_stuck_record_does_not_stop_reading_for_tens_of_thousands_of_others() -> None:
    tracker = taken(0, 60_000)
    for offset in range(1, 60_000):
        tracker.done(offset)
    assert not tracker.full
    offset, metadata = tracker.position()
    assert offset == 0
    assert len(metadata) < 20
    assert len(decode_metadata(offset, metadata)[0]) == 59_999


def test_reading_stops_before_the_span_grows_past_what_a_successor_unpacks() -> None:
    tracker = CommitTracker(0)
    offset = 0
    while not tracker.full:
        tracker.take(offset)
        if offset:
            tracker.done(offset)
        offset += 1
    assert 90_000 < offset < SPAN_LIMIT


def test_reading_stops_before_the_finished_set_outgrows_the_metadata() -> None:
    tracker = CommitTracker(0, window=50_000)
    offset = 0
    while not tracker.full:
        tracker.take(offset)
        if offset % 2:
            tracker.done(offset)
        offset += 1
    base, metadata = tracker.position("n" * NOTE_CHARS)
    assert len(metadata) <= METADATA_BYTES
    assert decode_metadata(base, metadata)[0] == set(range(1, offset, 2))


def test_a_finished_set_that_cannot_fit_is_cut_at_its_high_end_only() -> None:
    tracker = CommitTracker(0, window=1_000_000)
    for offset in range(60_000):
        tracker.take(offset)
        if offset % 2:
            tracker.done(offset)
    base, metadata = tracker.position("n" * NOTE_CHARS)
    assert len(metadata) <= METADATA_BYTES
    finished, note = decode_metadata(base, metadata)
    assert finished == set(range(1, max(finished) + 1, 2))
    assert len(finished) > 8_000
    assert note == "n" * NOTE_CHARS


def test_memory_follows_what_is_open_not_how_far_reading_ran_ahead() -> None:
    tracker = taken(0, 50_000)
    for offset in range(1, 50_000):
        tracker.done(offset)
    assert len(tracker._order) < 100


@pytest.mark.parametrize("note", ["a|b", "x" * (NOTE_CHARS + 1), "naïve", "line\nbreak"])
def test_a_note_that_could_not_be_read_back_is_refused(note: str) -> None:
    with pytest.raises(ValueError, match="note"):
        CommitTracker(0).position(note)


@pytest.mark.parametrize(
    "text",
    ["", "0-99", "none of ours", "r!!!!|n", "xAAAAAAAA|n", "rgA==|n", "rAQ==|n", "r_____w8B|n", "a|b|c", "r|", "é|"],
)
def test_metadata_of_another_origin_means_nothing_is_finished(text: str) -> None:
    finished, _ = decode_metadata(10, text)
    assert finished == frozenset()


def test_a_run_longer_than_any_of_ours_is_not_unpacked() -> None:
    assert decode_metadata(0, "rAP__fw==|n") == (frozenset(), "")
