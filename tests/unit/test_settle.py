"""Settle over the log in memory: who joined is answered once, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.clock import ManualClock
from fairlane.errors import Retry
from fairlane.ports import Answered, Settled, Settlement, TopicPartition
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import SOURCE
from fairlane.schemas.result import Cost, Result, Status, Timings
from fairlane.schemas.topics import partition_for
from tests.stage_harness import NAMES, Feed, World, request
from tests.unit.test_gate import IDEMPOTENCY_TTL_S, REQUESTS, answer, gate_of, settle_of


class FlakyStore(MemoryAdmissionStore):
    """Goes away between booking a result and forgetting its followers."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        if answered and self.failures:
            self.failures -= 1
            raise Retry("the store went away")
        await super().followers_answered(answered)


class ListeningStore(MemoryAdmissionStore):
    """Keeps what it is told; the one in memory forgets nothing, so it does not show how long it should."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Settlement] = []

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        self.heard += settlements
        return await super().settle(settlements)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store() -> FlakyStore:
    return FlakyStore()


async def joined(world: World, store: MemoryAdmissionStore, *followers: str) -> Feed:
    """``r-1`` in flight with requests that joined it; returns settle, fed up to here."""
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    for request_id in ("r-1", *followers):
        world.put(REQUESTS, request(request_id, idempotency_key="k"))
    await gate.step()
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    return settle


def results_of(world: World, request_id: str) -> int:
    return sum(result["request_id"] == request_id for result in world.values(NAMES.results))


async def deliver(world: World, feed: Feed, request_id: str = "r-1") -> None:
    """The result of a request again, as an engine does after Retry."""
    key = f"acme/{request_id}".encode()
    tp = TopicPartition(NAMES.results, partition_for(key, world.log.count(NAMES.results)))
    await feed.stage.process([r for r in world.log.slice(tp, 0, 100) if r.key == key], feed._done)
    await feed.settle()


async def test_a_store_that_goes_away_after_the_answers_does_not_cost_a_second_answer(
    world: World, store: FlakyStore
) -> None:
    settle = await joined(world, store, "r-2", "r-3")
    answer(world, "r-1", "k")
    store.failures = 2
    for _ in range(2):
        with pytest.raises(Retry):
            await deliver(world, settle)
    await deliver(world, settle)
    assert [results_of(world, each) for each in ("r-1", "r-2", "r-3")] == [1, 1, 1]


async def test_an_answer_that_was_not_acknowledged_is_looked_for_before_it_is_written_again(
    world: World, store: FlakyStore
) -> None:
    settle = await joined(world, store, "r-2", "r-3")
    answer(world, "r-1", "k")
    world.log.fail_next("ack", Retry("lost"))
    with pytest.raises(Retry):
        await deliver(world, settle)
    await deliver(world, settle)
    assert [results_of(world, each) for each in ("r-2", "r-3")] == [1, 1]


async def test_an_answer_is_found_in_the_log_also_where_the_clock_is_ahead_of_the_brokers(
    world: World, store: FlakyStore
) -> None:
    world.log.clock = ManualClock(world.clock.now_ms() - 30_000)
    settle = await joined(world, store, "r-2", "r-3")
    answer(world, "r-1", "k")
    world.log.fail_next("ack", Retry("lost"))
    with pytest.raises(Retry):
        await deliver(world, settle)
    await deliver(world, settle)
    assert [results_of(world, each) for each in ("r-2", "r-3")] == [1, 1]


async def test_a_delivery_cut_short_while_answers_are_on_their_way_writes_none_twice(
    world: World, store: FlakyStore
) -> None:
    settle = await joined(world, store, "r-2")
    answer(world, "r-1", "k")
    world.publisher.hold()
    cut = asyncio.create_task(deliver(world, settle))
    for _ in range(20):
        await asyncio.sleep(0)
    cut.cancel()
    await asyncio.wait([cut])
    world.publisher.release()
    await deliver(world, settle)
    assert results_of(world, "r-2") == 1


async def test_an_answer_too_large_for_one_who_joined_ends_that_request_and_not_the_others(
    world: World, store: FlakyStore
) -> None:
    gate = Feed(world, gate_of(world, store), REQUESTS)
    await gate.assign()
    labels = {f"label-{number}": "x" * 200 for number in range(16)}
    for request_id, given in (("r-1", {}), ("r-2", {}), ("r-3", labels)):
        world.put(REQUESTS, request(request_id, idempotency_key="k", labels=given))
    await gate.step()
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    answer(world, "r-1", "k", said="y" * 10_000)
    world.log.max_record_bytes = 11_500
    await deliver(world, settle)
    by_id = {result["request_id"]: result for result in world.values(NAMES.results)}
    assert by_id["r-2"]["status"] == "succeeded"
    assert (by_id["r-3"]["status"], by_id["r-3"]["error"]["code"]) == ("failed", "invalid_response")


async def test_a_request_that_no_stage_could_read_still_ends_those_who_joined_it(
    world: World, store: FlakyStore
) -> None:
    settle = await joined(world, store, "r-2")
    now = timestamp_from_ms(world.clock.now_ms())
    unread = Result(
        request_id="r-1",
        tenant_id="acme",
        status=Status.FAILED,
        timings=Timings(received_at=now, completed_at=now),
        config_version="t1-c1",
    )
    world.put(NAMES.results, encode(unread), b"acme/r-1", None)
    await deliver(world, settle)
    assert results_of(world, "r-2") == 1
    again = await joined(world, store, "r-4")
    assert again is not settle
    assert [job["request_id"] for job in world.values(NAMES.lanes("sim"))][-1] == "r-4"


async def test_an_answer_is_remembered_for_as_long_as_the_setting_says(world: World) -> None:
    store = ListeningStore()
    settle = await joined(world, store)
    answer(world, "r-1", "k")
    await deliver(world, settle)
    assert [(item.request_id, item.ttl_s) for item in store.heard] == [("r-1", IDEMPOTENCY_TTL_S)]


async def test_a_result_under_another_requests_key_books_nothing(world: World, store: FlakyStore) -> None:
    settle = await joined(world, store)
    now = timestamp_from_ms(world.clock.now_ms())
    forged = Result(
        request_id="r-1",
        tenant_id="acme",
        status=Status.SUCCEEDED,
        cost=Cost(nano_usd=1),
        timings=Timings(received_at=now, completed_at=now),
        config_version="x",
    )
    for key in (b"acme/r-2", None):
        world.put(NAMES.results, encode(forged), key, 0)
    await settle.step()
    [usage] = await store.usage(["acme"])
    assert (usage.spent_nano_usd, usage.undispatched) == (0, 1)
    assert len(settle.done) == 2


async def test_a_predecessors_answers_are_not_written_again(world: World, store: FlakyStore) -> None:
    settle = await joined(world, store, "r-2")
    answer(world, "r-1", "k")
    store.failures = 1
    with pytest.raises(Retry):
        await deliver(world, settle)
    successor = Feed(world, settle_of(world, store), NAMES.results)
    await successor.assign()
    await deliver(world, successor)
    assert results_of(world, "r-2") == 1
    assert any(name == SOURCE for record in world.log.records(NAMES.results) for name, _ in record.headers)


async def test_without_its_lease_settle_leaves_the_answers_to_the_new_owner(world: World, store: FlakyStore) -> None:
    settle = await joined(world, store, "r-2")
    answer(world, "r-1", "k")
    world.lease = False
    with pytest.raises(Retry):
        await deliver(world, settle)
    assert results_of(world, "r-2") == 0
    world.lease = True
    await deliver(world, settle)
    assert results_of(world, "r-2") == 1
