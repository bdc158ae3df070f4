"""What a process may read, deliver and commit of the partitions it owns."""

from __future__ import annotations

from fairlane.policy.offsets import decode_metadata
from fairlane.ports import Position, Record, Restored, TopicPartition
from fairlane.streams.engines.ledger import Ledger

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def records(tp: TopicPartition, *offsets: int) -> list[Record]:
    return [Record(tp.topic, tp.partition, offset, 0, None, b"") for offset in offsets]


def ledger(*partitions: TopicPartition, window: int = 10, batch: int = 4) -> Ledger:
    made = Ledger(window=window, batch=batch, on_pause=lambda: None)
    made.add({tp: Restored(0, 0) for tp in partitions})
    return made


def note(tp: TopicPartition) -> str:
    return f"p{tp.partition}"


def test_a_slow_head_holds_the_commit_and_what_is_done_beyond_it_goes_along() -> None:
    books = ledger(A)
    first, *others = books.take(A, records(A, 0, 1, 2, 3))
    for each in others:
        books.done(each)
    position = books.positions(note)[A]
    assert position.offset == 0
    assert decode_metadata(0, position.metadata) == (frozenset({1, 2, 3}), "p0")
    books.done(first)
    assert books.positions(note)[A].offset == 4


def test_what_a_predecessor_finished_is_not_delivered() -> None:
    books = ledger()
    books.add({A: Restored(5, 9, frozenset({6, 8}))})
    assert [each.offset for each in books.take(A, records(A, 3, 4, 5, 6, 7, 8, 9))] == [5, 7, 9]


def test_a_record_read_twice_is_delivered_once() -> None:
    books = ledger(A)
    assert len(books.take(A, records(A, 0, 1))) == 2
    assert [each.offset for each in books.take(A, records(A, 0, 1, 2))] == [2]


def test_records_of_a_partition_not_owned_are_not_delivered_and_their_end_is_not_counted() -> None:
    books = ledger(A)
    (late,) = books.take(A, records(A, 0))
    books.drop([A])
    assert books.take(A, records(A, 1)) == []
    assert not books.done(late)
    assert not books.is_unfinished(late)
    assert books.unfinished == 0


def test_dropping_one_partition_leaves_the_other_as_it_was() -> None:
    books = ledger(A, B)
    books.take(A, records(A, 0, 1))
    (kept,) = books.take(B, records(B, 0))
    books.drop([A])
    assert books.partitions == {B}
    assert books.unfinished == 1
    assert books.is_unfinished(kept)
    assert books.next_offsets() == {B: 1}


def test_no_partition_exceeds_its_window_and_a_full_one_does_not_stop_the_others() -> None:
    paused = []
    books = Ledger(window=6, batch=4, on_pause=lambda: paused.append(1))
    books.add({A: Restored(0, 0), B: Restored(0, 0)})
    assert books.room() == (frozenset({A, B}), 4)
    taken = books.take(A, records(A, 0, 1, 2, 3))
    assert books.room() == (frozenset({A, B}), 2)
    taken += books.take(A, records(A, 4, 5))
    assert books.room() == (frozenset({B}), 4)
    assert books.room() == (frozenset({B}), 4)
    assert paused == [1]
    books.done(taken[0])
    assert books.room()[0] == {B}, "one free place is no reason to make every batch tiny"
    books.done(taken[1])
    assert books.room() == (frozenset({A, B}), 2)


def test_a_window_of_one_record_still_moves() -> None:
    books = ledger(A, window=1, batch=500)
    assert books.room() == (frozenset({A}), 1)
    (taken,) = books.take(A, records(A, 0))
    assert books.room()[0] == frozenset()
    books.done(taken)
    assert books.room() == (frozenset({A}), 1)


def test_only_positions_that_changed_are_committed_and_a_failed_commit_is_repeated() -> None:
    books = ledger(A, B)
    first = books.positions(note)
    assert first == {A: Position(0, "|p0"), B: Position(0, "|p1")}
    assert books.positions(note) == first
    books.committed(first)
    assert books.positions(note) == {}
    (taken,) = books.take(A, records(A, 0))
    assert books.positions(note) == {}
    books.done(taken)
    assert books.positions(note) == {A: Position(1, "|p0")}


def test_done_twice_counts_once() -> None:
    books = ledger(A)
    (taken,) = books.take(A, records(A, 0))
    assert books.done(taken)
    assert not books.done(taken)
    assert books.unfinished == 0
