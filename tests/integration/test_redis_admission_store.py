"""The Redis admission store behaves as the port says, and as the reference model on random traces."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.errors import Retry
from fairlane.ports import AdmissionOutcome, Answered, Joined, Restoration, Waiting
from tests.contract.admission_store import TTL_S, AdmissionStoreBehaviour, admit, request, settlement
from tests.contract.restorable_store import Empty, RestorableStoreBehaviour, fill, waiting


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex}."


@pytest.fixture
async def store(redis_url: str, prefix: str) -> AsyncIterator[RedisAdmissionStore]:
    store = RedisAdmissionStore(redis_url, prefix)
    await fill(store)
    yield store
    await store.close()


@pytest.fixture
def empty(redis_url: str, prefix: str) -> Empty:
    async def flush() -> None:
        """What FLUSHALL does to the keys of this test."""
        async with Redis.from_url(redis_url) as redis:
            await redis.delete(*[key async for key in redis.scan_iter(f"{prefix}*")])

    return flush


class TestRedisAdmissionStore(AdmissionStoreBehaviour, RestorableStoreBehaviour):
    """On a real Redis."""


async def test_a_claim_that_is_not_kept_ends(store: RedisAdmissionStore, empty: Empty) -> None:
    await empty()
    assert await store.claim("died", 50)
    async with asyncio.timeout(5):
        while not await store.claim("me", 10_000):  # noqa: ASYNC110 - Redis lets it go, and tells nobody
            await asyncio.sleep(0.01)
    assert not await store.complete("died")


async def test_another_generation_is_taken_up_without_a_retry(store: RedisAdmissionStore, empty: Empty) -> None:
    await store.admit([request("r-1")])
    await empty()
    await fill(store, waiting("r-1", dispatched=True))
    assert await admit(store, request("r-1")) == [AdmissionOutcome.DUPLICATE]


async def test_the_scripts_agree_with_the_reference_model_on_random_traces(
    store: RedisAdmissionStore, empty: Empty
) -> None:
    model = MemoryAdmissionStore()
    rng = random.Random(20261120)
    for step in range(3000):
        rid, key = f"r-{rng.randrange(12)}-{step // 60}", f"k-{rng.randrange(5)}-{step // 60}"
        tenant = f"t{rng.randrange(2)}"
        if step % 150 == 149:
            await empty()
            model.empty()
            told = [_restoration(rng, step, number) for number in range(rng.randrange(12))]
            await fill(store, *told)
            await fill(model, *told)
        match rng.randrange(5):
            case 0 | 1:
                item = request(
                    rid,
                    tenant=tenant,
                    key=key,
                    fingerprint=f"f{rng.randrange(2)}",
                    source=f"s/0/{rng.randrange(6)}",
                    hold=rng.choice([0, 5, 10**15]),
                    cap=4,
                    reject=rng.choice(["", "", "", "schema_violation"]),
                    envelope=rid.encode(),
                )
                assert await store.admit([item]) == await model.admit([item]), step
            case 2:
                await store.dispatched([(tenant, rid)])
                await model.dispatched([(tenant, rid)])
            case 3:
                end = settlement(
                    rid,
                    tenant=tenant,
                    key=key,
                    cost=rng.choice([0, 3]),
                    answer=f"0/{step}",
                    replayable=rng.random() < 0.5,
                    known=rng.random() < 0.5,
                )
                [left], [right] = await store.settle([end]), await model.settle([end])
                assert (left.first, left.released_nano_usd, left.idempotency_key, sorted(left.followers)) == (
                    right.first,
                    right.released_nano_usd,
                    right.idempotency_key,
                    sorted(right.followers),
                ), step
            case 4:
                answered = Answered(tenant, key, (rid,))
                await store.followers_answered([answered])
                await model.followers_answered([answered])
        assert await store.usage(["t0", "t1"]) == await model.usage(["t0", "t1"]), step


def _restoration(rng: random.Random, step: int, number: int) -> Restoration:
    rid, key = f"r-{rng.randrange(12)}-{(step + 1) // 60}", f"k-{rng.randrange(5)}-{(step + 1) // 60}"
    tenant, source, print_ = f"t{rng.randrange(2)}", f"s/0/{rng.randrange(6)}", f"f{rng.randrange(2)}"
    match rng.randrange(3):
        case 0:
            return settlement(
                rid, tenant=tenant, key=key, cost=rng.choice([0, 3]), answer=f"0/{step}{number}",
                replayable=rng.random() < 0.5, known=rng.random() < 0.8,
            )  # fmt: skip
        case 1:
            return Waiting(tenant, rid, key, source, print_, rng.choice([0, 5, 10**15]), rng.random() < 0.5, TTL_S)
    return Joined(tenant, rid, key, source, print_, f"r-{rng.randrange(12)}-{(step + 1) // 60}", rid.encode(), TTL_S)


async def test_scripts_lost_in_a_flush_are_loaded_again(store: RedisAdmissionStore, redis_url: str) -> None:
    await store.admit([request("r-1")])
    async with Redis.from_url(redis_url) as redis:
        await redis.script_flush()
    assert await admit(store, request("r-2"), request("r-3")) == ["admitted", "admitted"]


async def test_a_store_that_is_away_says_try_again() -> None:
    away = RedisAdmissionStore("redis://127.0.0.1:1/0", "x.", timeout_s=0.5)
    with pytest.raises(Retry, match="not reachable"):
        await away.admit([request()])
    await away.close()
