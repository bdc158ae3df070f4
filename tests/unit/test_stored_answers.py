"""Answers that are given again: how much of them a batch may hold in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from fairlane.adapters.memory_log import MemoryReader
from fairlane.agents.stored_answers import StoredAnswers
from fairlane.ports import Record
from tests.stage_harness import NAMES, World


class CountingReader(MemoryReader):
    """Counts what it gives."""

    given = 0

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        async for batch in super().read(topic, starts, ends, committed_only=committed_only):
            self.given += len(batch)
            yield batch


async def test_answers_beyond_the_bound_of_a_batch_are_read_when_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fairlane.agents.stored_answers.KEPT_BYTES", 25)
    monkeypatch.setattr("fairlane.agents.stored_answers.NEAR", 0)
    world = World()
    for number in range(10):
        world.put(NAMES.results, b"answer-%03d" % number)
    reader = CountingReader(world.log)
    answers = StoredAnswers(reader, NAMES.results)
    await answers.load(f"0/{number}" for number in range(10))
    assert reader.given == 3, "ten bytes each: with the third the bound is passed"
    last = await answers.at("0/9")
    assert last is not None
    assert last.value == b"answer-009"
    assert reader.given == 4
