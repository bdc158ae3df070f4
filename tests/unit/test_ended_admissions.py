"""What a pool remembers of requests that ended: enough, and a bounded number."""

from __future__ import annotations

import tracemalloc

import pytest

from fairlane.agents import ended_admissions
from fairlane.agents.ended_admissions import ENDED_LEAST, EndedAdmissions


def admission(number: int) -> bytes:
    return b"fairlane.requests/3/%d" % number


def test_the_latest_are_remembered_whenever_one_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_admissions, "ENDED_LEAST", 3)
    ended = EndedAdmissions()
    for number in range(20):
        ended.add(admission(number))
        known = [each for each in range(number + 1) if admission(each) in ended]
        assert known[-3:] == list(range(max(0, number - 2), number + 1))
        assert len(known) <= 6
    assert admission(20) not in ended


def test_its_memory_stands_still_once_it_is_full() -> None:
    """An ordered dict of as many keys takes half as much again in the second turn."""
    tracemalloc.start()
    try:
        ended = EndedAdmissions()
        peaks = []
        for turn in range(4):
            tracemalloc.reset_peak()
            for number in range(2 * ENDED_LEAST):
                ended.add(admission(turn * 1_000_000 + number))
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert max(peaks[1:]) <= 1.05 * peaks[0]
