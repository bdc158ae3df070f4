"""The gate where things go wrong: records given back, topics that are missing or anew, writes refused or unanswered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.adapters.memory_log import MemoryLog, MemoryReader
from fairlane.agents.config_view import ConfigView
from fairlane.agents.gate import Gate, GateSettings
from fairlane.agents.intake import IntakeLimits
from fairlane.errors import Fatal, Retry
from fairlane.ports import Admission, AdmissionRequest, Outgoing, Record, Restored, TopicPartition
from fairlane.schemas.catalog import Pool
from fairlane.schemas.headers import SOURCE
from fairlane.telemetry import NO_METRICS
from tests.stage_harness import NAMES, Feed, World, config, model_entry, request
from tests.unit.test_dispatcher_hazards import FullPublisher
from tests.unit.test_gate import LANES, REQUESTS, answer, settle_of


@pytest.fixture
def world() -> World:
    return World()


class RecordingStore(MemoryAdmissionStore):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[AdmissionRequest] = []

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        self.asked += requests
        return await super().admit(requests)


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


def gate_of(world: World, store: MemoryAdmissionStore, view: ConfigView | None = None) -> Gate:
    return Gate(
        names=NAMES,
        publisher=world.publisher,
        reader=world.reader,
        store=store,
        config=lambda: view or config(),
        clock=world.clock,
        metrics=NO_METRICS,
        settings=GateSettings(IntakeLimits(100_000, 60_000, 86_400_000), 86_400),
        lease_ok=lambda: world.lease,
        fail=world.fatal.append,
    )


async def feed_of(world: World, store: MemoryAdmissionStore, view: ConfigView | None = None) -> Feed:
    feed = Feed(world, gate_of(world, store, view), REQUESTS)
    await feed.assign()
    return feed


async def booked(world: World, store: MemoryAdmissionStore) -> None:
    settle = Feed(world, settle_of(world, store), NAMES.results)
    await settle.assign()
    await settle.step()


def terminals(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for result in world.values(NAMES.results):
        found.setdefault(result["request_id"], []).append((result["error"] or {}).get("code", result["status"]))
    return found


# --- given back -------------------------------------------------------------------------------------------


async def test_records_given_back_because_of_another_are_not_written_again_while_they_are_on_their_way(
    world: World, store: RecordingStore
) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("owner", idempotency_key="k"))
    await feed.step()
    answer(world, "owner", "k")
    await booked(world, store)
    batch = [
        world.put(REQUESTS, request("bad", colour="red")),
        world.put(REQUESTS, request("good")),
        world.put(REQUESTS, request("replay", idempotency_key="k")),
    ]
    world.publisher.hold()
    world.log.fail_next("read", Retry("the log is slow"))
    with pytest.raises(Retry):
        await feed.stage.process(batch, feed._done)
    await feed.stage.process(batch, feed._done)
    assert not {offset for _, _, offset in feed.done} & {record.offset for record in batch}
    world.publisher.release()
    await feed.settle()
    assert terminals(world) == {"owner": ["succeeded"], "bad": ["schema_violation"], "replay": ["succeeded"]}
    assert [job["request_id"] for job in world.values(LANES)].count("good") == 1
    assert len(feed.done) == 4


async def test_partitions_that_come_back_while_writes_are_on_their_way_get_none_twice(
    world: World, store: RecordingStore
) -> None:
    feed = await feed_of(world, store)
    record = world.put(REQUESTS, request("r-1", colour="red"))
    world.publisher.hold()
    await feed.stage.process([record], feed._done)
    await feed.stage.revoked(frozenset({record.tp}))
    coming = asyncio.create_task(feed.assign())
    for _ in range(20):
        await asyncio.sleep(0)
    world.publisher.release()
    await coming
    await feed.step()
    assert terminals(world) == {"r-1": ["schema_violation"]}


async def test_a_record_the_code_fails_on_is_answered_once_also_by_a_successor(
    world: World, store: RecordingStore
) -> None:
    record = world.put(REQUESTS, request("r-1"))
    for _ in range(2):
        feed = await feed_of(world, store)
        await feed.stage.poisoned(record, ZeroDivisionError("boom"))
    assert terminals(world) == {"r-1": ["internal"]}
    world.log.fail_next("ack", Retry("lost"))
    feed = await feed_of(world, store)
    with pytest.raises(Fatal):
        await feed.stage.poisoned(world.put(REQUESTS, request("r-2")), ZeroDivisionError("boom"))


async def test_without_its_lease_the_gate_writes_nothing_and_with_it_everything_once(
    world: World, store: RecordingStore
) -> None:
    feed = await feed_of(world, store)
    batch = [world.put(REQUESTS, request("r-1")), world.put(REQUESTS, request("r-2", colour="red"))]
    world.lease = False
    with pytest.raises(Retry):
        await feed.stage.process(batch, feed._done)
    with pytest.raises(Retry):
        await feed.stage.poisoned(batch[0], ZeroDivisionError("boom"))
    await feed.settle()
    assert (terminals(world), world.values(LANES), feed.done) == ({}, [], set())
    world.lease = True
    await feed.stage.process(batch, feed._done)
    await feed.settle()
    assert (terminals(world), len(world.values(LANES))) == ({"r-2": ["schema_violation"]}, 1)


# --- stored answers ---------------------------------------------------------------------------------------


async def test_in_a_results_topic_made_anew_nobody_gets_the_answer_that_stands_at_the_old_position(
    world: World, store: RecordingStore
) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("r-1", idempotency_key="k"))
    await feed.step()
    answer(world, "r-1", "k", said="mine")
    await booked(world, store)
    [mine] = world.log.records(NAMES.results)
    held = world.log._partitions[mine.tp]
    other = (mine.value or b"").replace(b'"acme"', b'"zeta"').replace(b'"r-1"', b'"z-1"').replace(b'"k"', b'"z"')
    held[0] = replace(mine, key=b"zeta/z-1", value=other)
    world.put(REQUESTS, request("r-2", idempotency_key="k"))
    await feed.step()
    assert terminals(world)["r-2"] == ["internal"]
    held.clear()
    world.log._next[mine.tp] = 0
    world.put(REQUESTS, request("r-3", idempotency_key="k"))
    await feed.step()
    assert terminals(world)["r-3"] == ["internal"], "nothing stands there yet, and nobody waits until it does"


# --- pools ------------------------------------------------------------------------------------------------


async def test_a_pool_without_topics_refuses_its_own_requests_and_stops_nobody_else(
    world: World, store: RecordingStore
) -> None:
    view = config()
    pools = {**view.pools, "ghost": Pool(pool="ghost", slots=1)}
    view = replace(view, pools=pools, models={**view.models, "g": model_entry("g", "ghost")})
    world.put(REQUESTS, b"uncommitted")
    feed = await feed_of(world, store, view)
    ghost = {"model": "g", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}
    world.put(REQUESTS, request("r-1", body=ghost))
    world.put(REQUESTS, request("r-2"))
    await feed.step()
    assert terminals(world) == {"r-1": ["overloaded"]}
    assert [job["request_id"] for job in world.values(LANES)] == ["r-2"]
    await booked(world, store)
    [usage] = await store.usage(["acme"])
    assert usage.undispatched == 1
    world.log.create_topics("test.", ["ghost"])
    world.clock.advance(61)
    world.put(REQUESTS, request("r-3", body=ghost))
    await feed.step()
    assert [job["request_id"] for job in world.values(NAMES.lanes("ghost"))] == ["r-3"]


async def test_an_outage_of_the_log_refuses_nobody(world: World, store: RecordingStore) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("r-1"))
    world.log.fail_next("partitions", Retry("away"))
    world.log.fail_next("read", Retry("away"))
    with pytest.raises(Retry):
        await feed.stage.process(world.log.records(REQUESTS), feed._done)
    await feed.stage.process(world.log.records(REQUESTS), feed._done)
    await feed.settle()
    assert terminals(world) == {}
    assert len(world.values(LANES)) == 1


async def test_an_outage_that_ends_while_the_gate_asks_refuses_nobody(world: World, store: RecordingStore) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("r-1"))
    world.log.fail_next("partitions", Retry("away"))
    await feed.step()
    assert terminals(world) == {}
    assert len(world.values(LANES)) == 1


async def test_what_a_predecessor_put_into_a_pool_that_was_removed_since_is_found(
    world: World, store: RecordingStore
) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("r-1"))
    await feed.step()
    removed = replace(config(), pools={}, retired_pools=frozenset({"sim"}))
    successor = await feed_of(world, store, removed)
    await successor.step()
    assert terminals(world) == {}
    assert len(successor.done) == 1


# --- writes -----------------------------------------------------------------------------------------------


async def test_a_job_larger_than_a_record_can_be_is_refused_and_stops_nobody(
    world: World, store: RecordingStore
) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("large", text="x" * 4_000))
    world.put(REQUESTS, request("small"))
    world.log.max_record_bytes = 4_000
    await feed.step()
    await feed.settle()
    assert (terminals(world), world.fatal) == ({"large": ["too_large"]}, [])
    assert [job["request_id"] for job in world.values(LANES)] == ["small"]
    assert len(feed.done) == 2
    await booked(world, store)
    [usage] = await store.usage(["acme"])
    assert usage.undispatched == 1
    successor = await feed_of(world, store)
    await successor.step()
    assert terminals(world) == {"large": ["too_large"]}


async def test_a_backlog_of_large_requests_is_written_in_steps_that_fit_the_publishers_buffer(
    world: World, store: RecordingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publisher = FullPublisher(world.log, 200_000)
    monkeypatch.setattr("fairlane.agents.on_its_way.UNACKNOWLEDGED_BYTES_MAX", 60_000)
    feed = await feed_of(world, store)
    for number in range(30):
        world.put(REQUESTS, request(f"r-{number}", text="x" * 20_000))
    await feed.step()
    assert world.fatal == []
    assert len(feed.done) == len(world.values(LANES)) == 30


async def test_an_identity_outlives_the_last_moment_its_request_can_end_at(world: World, store: RecordingStore) -> None:
    feed = await feed_of(world, store)
    world.put(REQUESTS, request("r-1", timeout_ms=86_400_000))
    await feed.step()
    [asked] = store.asked
    assert asked.ttl_s >= 2 * 86_400


# --- transactions of others ---------------------------------------------------------------------------------


def written(world: World) -> list[int]:
    return [len(world.log.records(topic)) for topic in (NAMES.results, NAMES.dead_letters, LANES, NAMES.decisions)]


async def test_a_successor_whose_position_stands_on_a_transactions_marker_writes_nothing_twice(
    world: World, store: RecordingStore
) -> None:
    world.put(REQUESTS, request("r-0"))
    world.log.leave_gap(REQUESTS, 0, 1)
    feed = await feed_of(world, store)
    await feed.step()
    for value in (request("r-1", tenant="nobody"), b"junk", request("r-2")):
        world.put(REQUESTS, value)
    world.log.leave_gap(REQUESTS, 0, 1)
    await feed.step()
    before = written(world)
    # It dies before it could commit what is behind the marker of the first.
    successor = Feed(world, gate_of(world, store), REQUESTS)
    await successor.assign({TopicPartition(REQUESTS, 0): 1})
    await successor.step()
    assert written(world) == before


async def test_of_what_predecessors_wrote_only_what_may_come_again_is_kept(world: World, store: RecordingStore) -> None:
    feed = await feed_of(world, store)
    for number in range(5):
        world.put(REQUESTS, request(f"r-{number}"))
    await feed.step()
    successor = gate_of(world, store)
    await successor.assigned({TopicPartition(REQUESTS, 0): Restored(4, 5)})
    assert set(successor._effects) == {f"{REQUESTS}/0/4".encode()}
    await successor.revoked(frozenset({TopicPartition(REQUESTS, 0)}))
    assert successor._effects == {}


@pytest.mark.parametrize("topic", [NAMES.results, NAMES.dead_letters, NAMES.decisions])
async def test_a_source_that_no_stage_wrote_keeps_no_gate_from_its_partitions(
    world: World, store: RecordingStore, topic: str
) -> None:
    world.put(REQUESTS, request("r-1"))
    world.log.append(Outgoing(topic, b"k", b"{}", ((SOURCE, f"{REQUESTS}/0/{'9' * 5_000}".encode()),)))
    feed = await feed_of(world, store)
    await feed.step()
    assert len(world.log.records(LANES)) == 1


class Asked(MemoryReader):
    """Remembers of which topics it was asked only for what is committed."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.committed_only: dict[str, bool] = {}

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """See the port."""
        self.committed_only[topic] = committed_only
        async for batch in super().read(topic, starts, ends, committed_only=committed_only):
            yield batch


async def test_what_was_aborted_among_requests_is_not_looked_back_to(world: World, store: RecordingStore) -> None:
    world.put(REQUESTS, request("r-1"))
    world.reader = asked = Asked(world.log)
    await feed_of(world, store)
    assert asked.committed_only == {REQUESTS: True, **dict.fromkeys(asked.committed_only.keys() - {REQUESTS}, False)}
    assert NAMES.results in asked.committed_only
