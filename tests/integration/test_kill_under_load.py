"""kill -9 of stages while requests flow: nothing lost, nothing twice, nothing held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.running_chain import Chain, request

REQUESTS = 1_500
TENANTS = ["acme", "beacon", "cobalt", "delta"]


@pytest.fixture
def chain(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    chain = Chain(kafka_bootstrap, redis_url, clickhouse_url, tmp_path_factory.mktemp("kills"))
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


@pytest.mark.timeout(300)
async def test_killing_worker_dispatcher_and_gate_in_turn_loses_and_doubles_nothing(chain: Chain) -> None:
    kills = {150: "worker", 600: "dispatcher", 1050: "gate"}
    sent: list[str] = []
    async with asyncio.TaskGroup() as group:
        for start in range(0, REQUESTS, 50):
            ids = [f"r-{number}" for number in range(start, start + 50)]
            await chain.produce(
                request(name, TENANTS[number % 4], body={"model": "sim-small", "max_tokens": 32})
                for number, name in enumerate(ids)
            )
            sent += ids
            if start in kills:
                group.create_task(asyncio.to_thread(chain.kill, kills[start]))
    results = await chain.results(REQUESTS, timeout_s=120)
    assert set(results) == set(sent)
    assert {result["status"] for result in results.values()} == {"succeeded"}
    async with asyncio.timeout(60):
        while True:
            usage = await chain.usage(TENANTS)
            rows = await chain.sql("SELECT request_id, cost_nano_usd FROM requests")
            if len(rows) >= REQUESTS and not any(u.held_nano_usd for u in usage):
                break
    assert {row["request_id"]: int(row["cost_nano_usd"]) for row in rows} == {
        name: result["cost"]["nano_usd"] for name, result in results.items()
    }
    assert len(rows) == REQUESTS
    for tenant, figures in zip(TENANTS, usage, strict=True):
        assert (figures.held_nano_usd, figures.undispatched, figures.in_flight) == (0, 0, 0), tenant
        spent = sum(r["cost"]["nano_usd"] for r in results.values() if r["tenant_id"] == tenant)
        assert figures.spent_nano_usd == spent
