"""What ClickHouse's tables tell about one request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fairlane.cli.evidence import from_clickhouse
from fairlane.cli.story import Evidence


class Tables:
    """Answers the queries of ``from_clickhouse``: one row of `requests`, and whoever repeated its key."""

    def __init__(self, status: str, *, replayed: bool) -> None:
        self._request: tuple[Any, ...] = (
            "acme", "r-2", "order-17", "normal", status, "", "sim", "sim", "small", "route auto", 1_000, 2_000,
            0.0, 0.0, 1.0, 1, 0, 1, 0, 0, "small@2026-01-01", 0, False, replayed, {}, "t1-c1",
        )  # fmt: skip

    async def rows(self, sql: str, _parameters: Mapping[str, object]) -> list[Any]:
        if ".requests" not in sql:
            return []
        return [("r-1", 1_500), ("r-2", 2_000), ("r-3", 3_000)] if "AND replayed" in sql else [self._request]


async def replays(status: str, *, replayed: bool) -> list[str]:
    evidence = Evidence("acme", "r-2")
    await from_clickhouse(Tables(status, replayed=replayed), "fairlane", evidence)  # type: ignore[arg-type]
    return [replay["request_id"] for replay in evidence.replays]


async def test_the_story_of_the_first_answer_names_those_who_got_it_again() -> None:
    assert await replays("succeeded", replayed=False) == ["r-1", "r-3"]


@pytest.mark.parametrize(("status", "replayed"), [("succeeded", True), ("rejected", False)])
async def test_a_repetition_or_a_refusal_was_given_to_nobody_else(status: str, replayed: bool) -> None:
    assert await replays(status, replayed=replayed) == []
