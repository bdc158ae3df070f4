"""Redis is emptied while requests flow: what it knew comes back from the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from fairlane.ports import TenantUsage
from tests.integration.running_chain import Chain, request

TENANTS = ["acme", "beacon", "cobalt"]
KEYS = 600


@pytest.fixture
def chain(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    # A database of its own, which can be flushed.
    chain = Chain(kafka_bootstrap, f"{redis_url.rsplit('/', 1)[0]}/9", clickhouse_url, tmp_path_factory.mktemp("empty"))
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


@pytest.mark.timeout(240)
async def test_an_emptied_redis_forgets_no_answer_no_hold_and_no_key(chain: Chain) -> None:
    # How many answers there are when it is emptied: some, and after the first time more than before it.
    answered_before = {200: 100, 400: 600}
    async with Redis.from_url(chain.redis) as redis:
        for start in range(0, KEYS, 50):
            await chain.produce(_asking(f"r-{n}", n) for n in range(start, start + 50))
            if start in answered_before:
                await chain.read("results", answered_before[start])
                await redis.flushdb()
            # Every key is asked for again under another id.
            await chain.produce(_asking(f"again-{n}", n) for n in range(max(0, start - 100), start - 50))
    again = KEYS - 100
    results = await chain.results(KEYS + again, timeout_s=120)
    assert {result["status"] for result in results.values()} == {"succeeded"}
    replays = [result for result in results.values() if result["replayed"]]
    assert len(replays) == again
    assert not any(result["cost"]["nano_usd"] for result in replays)
    attempts = await chain.read("attempts", KEYS)
    assert len(attempts) == KEYS, "a key is called once, whatever Redis forgets"
    expected = [
        TenantUsage(spent_nano_usd=sum(r["cost"]["nano_usd"] for r in results.values() if r["tenant_id"] == tenant))
        for tenant in TENANTS
    ]
    async with asyncio.timeout(30):
        while await chain.usage(TENANTS) != expected:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.1)
    logs = [line for file in (chain.state_dir / "logs").glob("*.log") for line in file.read_text().splitlines()]
    told = [json.loads(line) for line in logs if '"store_rebuilt"' in line]
    # Once at the start, when Redis was new, and once for each flush.
    assert len(told) == 3
    assert max(event["results"] for event in told) > 0
    # Emptied at rest, it is filled though nobody asks.
    async with Redis.from_url(chain.redis) as redis:
        await redis.flushdb()
    async with asyncio.timeout(30):
        while await chain.usage(TENANTS) != expected:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.1)


def _asking(request_id: str, number: int) -> dict[str, object]:
    return request(request_id, TENANTS[number % 3], idempotency_key=f"k-{number}", body={"model": "sim-small"})
