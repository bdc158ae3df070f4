"""The commit tracker against a naive model, over all histories hypothesis finds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fairlane.policy.offsets import METADATA_BYTES, NOTE_CHARS, CommitTracker, decode_metadata

WINDOW = 40


class TrackedPartition(RuleBasedStateMachine):
    """A log with gaps, a consumer that finishes records in any order, and restarts from what was committed."""

    @initialize(base=st.integers(0, 2**40))
    def start(self, base: int) -> None:
        self.tracker = CommitTracker(base, window=WINDOW)
        self.log_start = base
        self.log: list[int] = []  # offsets that exist, in order
        self.next = base  # the end of the log
        self.read = 0  # index into the log of what is read next
        self.delivered: set[int] = set()
        self.finished: set[int] = set()

    @rule(gap=st.sampled_from([0, 0, 0, 0, 1, 5, 300]), count=st.integers(1, 30))
    def append(self, gap: int, count: int) -> None:
        first = self.next + gap
        self.log.extend(range(first, first + count))
        self.next = first + count

    @precondition(lambda self: self.read < len(self.log))
    @rule(count=st.integers(1, 30))
    def deliver(self, count: int) -> None:
        for offset in self.log[self.read : self.read + count]:
            if self.tracker.full:
                break
            self.read += 1
            wanted = self.tracker.take(offset)
            assert wanted == (offset not in self.finished)
            if wanted:
                self.delivered.add(offset)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.delivered)))
        self.tracker.done(offset)
        self.delivered.discard(offset)
        self.finished.add(offset)

    @rule(note=st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="|"), max_size=NOTE_CHARS))
    def crash_and_restore(self, note: str) -> None:
        """A successor has exactly what was finished, and everything else to do."""
        base, metadata = self.tracker.position(note)
        restored, read_note = decode_metadata(base, metadata)
        assert read_note == note
        exist = {o for o in self.log if o >= base}
        assert restored & exist == {o for o in self.finished if o >= base}
        self.tracker = CommitTracker(base, restored, window=WINDOW)
        self.delivered = set()
        self.read = next((i for i, o in enumerate(self.log) if o >= base), len(self.log))

    @invariant()
    def nothing_unfinished_lies_below_the_committable_offset(self) -> None:
        if hasattr(self, "tracker"):
            unfinished = [o for o in self.log if o not in self.finished]
            assert self.tracker.base <= (unfinished[0] if unfinished else self.next)

    @invariant()
    def the_committable_offset_is_as_high_as_it_may_be(self) -> None:
        if hasattr(self, "tracker") and self.delivered:
            assert self.tracker.base == min(self.delivered)
            assert self.tracker.unfinished == len(self.delivered)

    @invariant()
    def the_metadata_always_fits(self) -> None:
        if hasattr(self, "tracker"):
            assert len(self.tracker.position("n" * NOTE_CHARS)[1]) <= METADATA_BYTES


TestTrackedPartition = TrackedPartition.TestCase


@settings(max_examples=25, deadline=None)
@given(base=st.integers(0, 2**50), holes=st.sets(st.integers(0, 40_000), max_size=400), top=st.integers(0, 40_000))
def test_any_finished_set_survives_the_metadata_or_only_loses_its_high_end(
    base: int, holes: set[int], top: int
) -> None:
    finished = {base + i for i in range(1, top) if i not in holes}
    tracker = CommitTracker(base, finished)
    tracker.take(base)
    at, metadata = tracker.position()
    restored, _ = decode_metadata(at, metadata)
    assert at == base
    assert len(metadata) <= METADATA_BYTES
    highest = max(restored, default=-1)
    assert restored == {o for o in finished if o <= highest}


@given(st.text(max_size=60), st.integers(0, 2**60))
def test_no_text_at_all_makes_decoding_fail(text: str, base: int) -> None:
    finished, note = decode_metadata(base, text)
    assert all(o >= base for o in finished)
    assert isinstance(note, str)
