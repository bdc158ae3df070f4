"""The chain through real Kafka, Redis and ClickHouse: what tenants and operators see of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlane.ports import TenantUsage
from tests.integration.running_chain import Chain, request


@pytest.fixture(scope="module")
def chain(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    chain = Chain(kafka_bootstrap, redis_url, clickhouse_url, tmp_path_factory.mktemp("chain"))
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


async def result_of(chain: Chain, request_id: str) -> dict[str, object]:
    """The first result of a request, waiting for it."""
    return (await results_of(chain, request_id, 1))[0]


async def results_of(chain: Chain, request_id: str, count: int) -> list[dict[str, object]]:
    """All results of a request once there are ``count``."""
    async with asyncio.timeout(45):
        while True:
            found = [r for r in await chain.read("results", 0) if r["request_id"] == request_id]
            if len(found) >= count:
                return found


async def test_an_event_becomes_a_billed_result_and_a_row(chain: Chain) -> None:
    await chain.produce([request("one", labels={"project": "search"})])
    result = await result_of(chain, "one")
    assert result["status"] == "succeeded"
    assert result["error"] is None
    assert result["labels"] == {"project": "search"}
    usage, cost = result["usage"], result["cost"]
    assert isinstance(usage, dict)
    assert isinstance(cost, dict)
    assert cost["nano_usd"] == usage["input_tokens"] * 150 + usage["output_tokens"] * 600
    async with asyncio.timeout(30):
        while not (rows := await chain.sql("SELECT * FROM requests WHERE request_id = 'one'")):
            pass
    assert len(rows) == 1
    assert int(rows[0]["cost_nano_usd"]) == cost["nano_usd"]
    assert rows[0]["tenant_id"] == "acme"


async def test_a_key_used_again_is_answered_from_the_log_and_costs_nothing(chain: Chain) -> None:
    await chain.produce([request("first", idempotency_key="k1")])
    first = await result_of(chain, "first")
    await chain.produce([request("second", idempotency_key="k1")])
    second = await result_of(chain, "second")
    assert (second["replayed"], second["response"]) == (True, first["response"])
    assert second["cost"] == {"nano_usd": 0, "price_id": "sim-instant@2025-01-01"}
    await chain.produce([request("third", idempotency_key="k1", body={"max_tokens": 9})])
    third = await result_of(chain, "third")
    assert third["status"] == "rejected"
    assert isinstance(third["error"], dict)
    assert third["error"]["code"] == "idempotency_mismatch"


async def test_requests_with_one_key_in_flight_share_one_call(chain: Chain) -> None:
    slow = {"model": "sim-small", "max_tokens": 64}
    await chain.produce([request(f"same-{i}", idempotency_key="k2", body=slow) for i in range(4)])
    results = [await result_of(chain, f"same-{i}") for i in range(4)]
    assert sorted(result["replayed"] for result in results) == [False, True, True, True]  # type: ignore[type-var]
    attempts = [a for a in await chain.read("attempts", 0) if str(a["request_id"]).startswith("same-")]
    assert len(attempts) == 1


async def test_a_request_sent_twice_at_once_has_one_result(chain: Chain) -> None:
    slow = {"model": "sim-small", "max_tokens": 64}
    await chain.produce([request("twin", body=slow), request("twin", body=slow), request("after-twin")])
    await result_of(chain, "after-twin")
    assert len(await results_of(chain, "twin", 1)) == 1


async def test_a_request_id_with_another_body_is_a_dead_letter(chain: Chain) -> None:
    await chain.produce([request("reused")])
    await result_of(chain, "reused")
    await chain.produce([request("reused", body={"max_tokens": 7})])
    async with asyncio.timeout(45):
        while not (found := [d for d in await chain.read("dead-letters", 0) if d["request_id"] == "reused"]):
            pass
    assert [letter["error"]["code"] for letter in found] == ["request_id_reused"]
    assert len(await results_of(chain, "reused", 1)) == 1


async def test_bad_input_between_good_is_answered_or_dead_lettered_and_stops_nobody(chain: Chain) -> None:
    bad = [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        json.dumps(request("nobody", tenant="nobody")).encode(),
        json.dumps(request("odd", colour="red")).encode(),
        json.dumps(request("late", deadline="2020-01-01T00:00:00Z")).encode(),
    ]
    await chain.produce([*bad, request("good-after-bad")])
    assert (await result_of(chain, "good-after-bad"))["status"] == "succeeded"
    codes = {name: (await result_of(chain, name))["error"] for name in ("nobody", "odd", "late")}
    assert {name: error["code"] for name, error in codes.items() if isinstance(error, dict)} == {
        "nobody": "unknown_tenant",
        "odd": "schema_violation",
        "late": "deadline_exceeded",
    }
    letters = await chain.read("dead-letters", 4)
    assert len([letter for letter in letters if letter["error"]["code"] == "invalid_json"]) == 4


async def test_a_model_that_fails_ends_in_a_typed_failure(chain: Chain) -> None:
    await chain.produce([request("broken", body={"model": "sim-500"})])
    result = await result_of(chain, "broken")
    assert result["status"] == "failed"
    assert isinstance(result["error"], dict)
    assert result["error"]["code"] == "provider_unavailable"


async def test_a_deadline_that_passes_while_the_model_hangs_ends_the_request(chain: Chain) -> None:
    await chain.produce([request("hung", timeout_ms=1500, body={"model": "sim-hang"})])
    result = await result_of(chain, "hung")
    assert isinstance(result["error"], dict)
    assert result["error"]["code"] in ("provider_timeout", "deadline_exceeded")


async def test_a_stream_arrives_in_chunks_and_ends_in_one_result(chain: Chain) -> None:
    await chain.produce([request("streamed", stream=True, body={"model": "sim-small", "max_tokens": 16})])
    result = await result_of(chain, "streamed")
    assert result["status"] == "succeeded"
    chunks = [c for c in await chain.read("chunks", 1) if c["request_id"] == "streamed"]
    assert [chunk["sequence"] for chunk in chunks] == list(range(len(chunks)))
    assert chunks[-1]["last"]


async def test_a_changed_weight_and_price_show_on_the_next_results(chain: Chain, tmp_path: Path) -> None:
    catalog = json.loads(chain.run("catalog", "list", "--json").stdout)
    assert any(entry.get("name") == "sim-instant" for entry in catalog)
    tenants = json.loads(chain.run("tenants", "list", "--json").stdout)
    file = tmp_path / "tenants.yaml"
    acme = next(tenant for tenant in tenants if tenant["tenant_id"] == "acme")
    file.write_text(json.dumps({"tenants": [{**acme, "weight": 5}]}))
    await chain.produce([request("before-change")])
    before = await result_of(chain, "before-change")
    chain.run("tenants", "apply", "-f", str(file))
    async with asyncio.timeout(30):
        for number in range(1000):
            await chain.produce([request(f"changed-{number}")])
            if (await result_of(chain, f"changed-{number}"))["config_version"] != before["config_version"]:
                break
    applied = json.loads(chain.run("tenants", "list", "--json").stdout)
    assert next(tenant for tenant in applied if tenant["tenant_id"] == "acme")["weight"] == 5


async def test_a_story_can_be_told_of_a_request(chain: Chain) -> None:
    await chain.produce([request("storied")])
    await result_of(chain, "storied")
    story = json.loads(chain.run("explain", "storied", "--json").stdout)
    text = json.dumps(story)
    assert "admitted" in text
    assert "dispatched" in text
    assert "succeeded" in text


async def test_in_the_end_nothing_is_held_and_the_table_equals_the_log(chain: Chain) -> None:
    await chain.produce([request("equal-1"), request("equal-2", body={"model": "sim-500"}), request("equal-1")])
    await result_of(chain, "equal-1")
    await result_of(chain, "equal-2")
    # Results of failures and replays included: one row for each request that has a result.
    results = await chain.read("results", 2)
    winners: dict[tuple[str, str], int] = {}
    for result in results:
        winners.setdefault((result["tenant_id"], result["request_id"]), result["cost"]["nano_usd"])
    async with asyncio.timeout(45):
        while True:
            rows = await chain.sql("SELECT tenant_id, request_id, cost_nano_usd FROM requests")
            if len(rows) >= len(winners):
                break
    assert {(r["tenant_id"], r["request_id"]): int(r["cost_nano_usd"]) for r in rows} == winners
    assert len(rows) == len(winners)
    spent = sum(cost for (tenant, _), cost in winners.items() if tenant == "acme")
    async with asyncio.timeout(30):
        while (await chain.usage(["acme"])) != [TenantUsage(spent_nano_usd=spent)]:
            pass
