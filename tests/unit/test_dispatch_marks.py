"""Marks for the admission store while it is away: bounded, the newest kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.agents.dispatch_marks import DispatchMarks
from fairlane.errors import Retry
from tests.stage_harness import config


class AwayStore(MemoryAdmissionStore):
    """Raises Retry until it is ``there``; keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.there = False
        self.told: list[str] = []

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        if not self.there:
            raise Retry("the store is away")
        self.told += [request_id for _, request_id in requests]


async def test_while_the_store_is_away_only_the_latest_marks_are_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlane.agents.dispatch_marks.MARKS_MAX", 3)
    store = AwayStore()
    marks = DispatchMarks(store, config)
    for number in range(5):
        marks.add("acme", f"r-{number}")
        with pytest.raises(Retry):
            await marks.flush()
    store.there = True
    await marks.flush()
    assert store.told == ["r-2", "r-3", "r-4"]
