"""When a consumer fetches."""

from __future__ import annotations

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from fairlane.adapters.kafka_fetching import PARTIAL_WAIT_MS, FetchGate, include_taken_partitions


class StubFetcher:
    def __init__(self) -> None:
        self._records: dict[str, object] = {}
        self._fetch_max_wait_ms = 500
        self._prefetch_backoff = 0.1

    def _get_actions_per_node(self, assignment: Any) -> int:
        return self._fetch_max_wait_ms


def planned(fetcher: StubFetcher) -> int:
    return fetcher._get_actions_per_node(SimpleNamespace(tps={"a", "b"}))


def test_a_fetch_that_leaves_a_partition_out_is_short() -> None:
    fetcher = StubFetcher()
    include_taken_partitions(SimpleNamespace(_fetcher=fetcher))
    assert planned(fetcher) == 500
    fetcher._records["a"] = object()
    assert planned(fetcher) == PARTIAL_WAIT_MS
    fetcher._records.clear()
    assert planned(fetcher) == 500


def test_records_of_a_partition_that_went_away_do_not_shorten_fetches() -> None:
    fetcher = StubFetcher()
    include_taken_partitions(SimpleNamespace(_fetcher=fetcher))
    fetcher._records["gone"] = object()
    assert planned(fetcher) == 500


def test_the_client_still_plans_its_fetches_by_these_names() -> None:
    source = inspect.getsource(Fetcher)
    names = (
        "self._get_actions_per_node(",
        "self._records",
        "self._fetch_max_wait_ms,",
        "backoff=self._prefetch_backoff",
        "other_futs = [self._wait_consume_future, ",
    )
    assert [name for name in names if name not in source] == []


class GatedFetcher:
    def __init__(self) -> None:
        self._wait_consume_future = object()
        self.notified: list[object] = []

    def _get_actions_per_node(self, _assignment: Any) -> tuple[list[str], str]:
        return ["fetch"], "others"

    def _notify(self, future: object) -> None:
        self.notified.append(future)


def test_a_closed_gate_holds_fetches_back_and_an_opened_one_has_them_planned_at_once() -> None:
    fetcher = GatedFetcher()
    gate = FetchGate(SimpleNamespace(_fetcher=fetcher))
    assert fetcher._get_actions_per_node(None) == (["fetch"], "others")
    gate.close()
    assert fetcher._get_actions_per_node(None) == ([], "others")
    gate.open()
    assert fetcher.notified == [fetcher._wait_consume_future]
    assert fetcher._get_actions_per_node(None) == (["fetch"], "others")


async def test_fetches_pause_after_a_poll_under_load_and_go_on_by_themselves() -> None:
    fetcher = GatedFetcher()
    FetchGate(SimpleNamespace(_fetcher=fetcher)).gather(0.01, taken=20, asked=500)
    assert fetcher._get_actions_per_node(None) == ([], "others")
    async with asyncio.timeout(10):
        while not fetcher.notified:  # noqa: ASYNC110 - a timer opens it
            await asyncio.sleep(0.001)
    assert fetcher._get_actions_per_node(None) == (["fetch"], "others")


@pytest.mark.parametrize(
    ("seconds", "taken", "pauses"),
    [
        (0.04, 0, False),
        (0.04, 1, False),
        # What 40 ms bring at 100 records a second: a pause after it would be followed by pauses for ever.
        (0.04, 4, False),
        (0.04, 8, True),
        (0.005, 1, False),
        (0.005, 2, True),
        (0.04, 249, True),
        (0.04, 250, False),
    ],
)
async def test_few_records_and_a_backlog_are_followed_by_no_pause(seconds: float, taken: int, pauses: bool) -> None:
    fetcher = GatedFetcher()
    FetchGate(SimpleNamespace(_fetcher=fetcher)).gather(seconds, taken, asked=500)
    assert fetcher._get_actions_per_node(None) == ([] if pauses else ["fetch"], "others")
