"""The Redis admission store behaves as the port says, and as the reference model on random traces."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.errors import Retry
from fairlane.ports import AdmissionStore, Answered
from tests.contract.admission_store import AdmissionStoreBehaviour, admit, request, settlement


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisAdmissionStore]:
    store = RedisAdmissionStore(redis_url, f"t{uuid.uuid4().hex}.")
    yield store
    await store.close()


class TestRedisAdmissionStore(AdmissionStoreBehaviour):
    """On a real Redis."""


async def test_the_scripts_agree_with_the_reference_model_on_random_traces(store: AdmissionStore) -> None:
    model = MemoryAdmissionStore()
    rng = random.Random(20261120)
    for step in range(3000):
        rid, key = f"r-{rng.randrange(12)}-{step // 60}", f"k-{rng.randrange(5)}-{step // 60}"
        tenant = f"t{rng.randrange(2)}"
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
