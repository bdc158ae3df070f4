"""Which inbox records are void, and that the answer is the same after any restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.agents.inbox_epochs import EPOCH_AHEAD_MS, EpochFence, decode_note, dispatch_of, encode_note
from fairlane.ports import Record
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import DISPATCH
from fairlane.schemas.job import Dispatch


def valid(epochs: list[int]) -> list[bool]:
    """The rule itself: not below the highest epoch that stands before."""
    return [epoch >= max(epochs[:index], default=0) for index, epoch in enumerate(epochs)]


@given(st.lists(st.integers(0, 6), max_size=30))
def test_a_record_is_void_if_a_higher_epoch_stands_before_it(epochs: list[int]) -> None:
    fence = EpochFence()
    assert [fence.admits(offset, epoch) for offset, epoch in enumerate(epochs)] == valid(epochs)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.data())
def test_a_restart_anywhere_judges_every_record_as_before(epochs: list[int], data: st.DataObject) -> None:
    committed = data.draw(st.integers(0, len(epochs) - 1))
    first = EpochFence()
    for offset, epoch in enumerate(epochs):
        first.admits(offset, epoch)
    restarted = EpochFence(decode_note(encode_note(first.base_at(committed), clean=False))[0])
    for offset in range(committed, len(epochs)):
        restarted.admits(offset, epochs[offset])
    again = data.draw(st.lists(st.integers(committed, len(epochs) - 1), max_size=10))
    assert [restarted.admits(offset, epochs[offset]) for offset in again] == [valid(epochs)[offset] for offset in again]


@given(st.text(max_size=40))
def test_any_note_can_be_read(note: str) -> None:
    base, clean = decode_note(note)
    assert base >= 0
    assert not clean or note.endswith(",clean")


def test_a_note_keeps_what_was_put_in() -> None:
    assert decode_note(encode_note(1_795_197_600_000, clean=True)) == (1_795_197_600_000, True)
    assert decode_note(encode_note(7, clean=False)) == (7, False)
    assert decode_note("") == (0, False)


@pytest.mark.parametrize(
    ("epoch", "counts"),
    [(0, True), (60_000, True), (EPOCH_AHEAD_MS, True), (EPOCH_AHEAD_MS + 1, False), (2**63 - 1, False)],
)
def test_an_epoch_counts_unless_it_is_further_ahead_of_its_record_than_any_clock(epoch: int, counts: bool) -> None:
    written_ms = 0
    dispatch = Dispatch(epoch=written_ms + epoch, dispatched_ms=0)
    record = Record("inbox", 0, 0, written_ms, b"k", None, ((DISPATCH, encode(dispatch)),))
    assert dispatch_of(record) == (dispatch if counts else None)
