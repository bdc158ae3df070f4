"""Every stage decides by the tenants and the catalog as they are applied now."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fairlane.adapters.memory_log import MemoryLog, MemoryReader
from fairlane.agents.config_follower import PARTITIONS_S, ConfigFollower, ConfigView
from fairlane.errors import Retry
from fairlane.metrics import METRICS
from fairlane.ports import Outgoing
from fairlane.schemas.catalog import CatalogEntry, Model, Pool, Price, Provider, RouteEntry
from fairlane.schemas.codec import encode
from fairlane.schemas.tenant import Tenant
from fairlane.telemetry import PrometheusMetrics

TENANTS, CATALOG = "t.tenants", "t.catalog"
PRICE = {"from": "2026-11-01T00:00:00Z", "input": "0.15", "cached_input": "0.075", "output": "0.60"}


def tenant(name: str, **fields: object) -> Outgoing:
    value = Tenant.model_validate({"tenant_id": name, **fields})
    return Outgoing(TENANTS, name.encode(), encode(value))


def entry(value: CatalogEntry) -> Outgoing:
    return Outgoing(CATALOG, value.key.encode(), encode(value))


def provider(name: str = "sim") -> Outgoing:
    return entry(CatalogEntry(kind="provider", provider=Provider(provider=name, base_url="http://127.0.0.1:9999/v1")))


def pool(name: str = "sim") -> Outgoing:
    return entry(CatalogEntry(kind="pool", pool=Pool(pool=name, slots=8)))


def model(name: str = "sim-small", *prices: dict[str, object]) -> Outgoing:
    value = Model(
        model=name,
        provider="sim",
        pool="sim",
        context_tokens=1000,
        max_output_tokens=100,
        prices=[Price.model_validate(price) for price in prices or (PRICE,)],
    )
    return entry(CatalogEntry(kind="model", model=value))


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topic(TENANTS, 1)
    log.create_topic(CATALOG, 1)
    return log


@pytest.fixture
def metrics() -> PrometheusMetrics:
    return PrometheusMetrics({name: METRICS[name] for name in ("config_records_total",)}, process_metrics=False)


async def started(
    log: MemoryLog, metrics: PrometheusMetrics, monotonic: Callable[[], float] = time.monotonic
) -> ConfigFollower:
    follower = ConfigFollower(MemoryReader(log), TENANTS, CATALOG, metrics, monotonic)
    await follower.start()
    return follower


@asynccontextmanager
async def following(follower: ConfigFollower) -> AsyncIterator[asyncio.Queue[ConfigView]]:
    """Run the follower; every new view arrives in the queue."""
    views: asyncio.Queue[ConfigView] = asyncio.Queue()
    follower.add_listener(views.put_nowait)
    running = asyncio.create_task(follower.run(asyncio.Event()))
    try:
        yield views
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_before_anything_is_applied_the_view_is_empty(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    assert (await started(log, metrics)).view == ConfigView("t0-c0")


async def test_a_start_reads_all_that_is_applied(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    for record in (tenant("acme", weight=2), tenant("beta"), provider(), pool(), model()):
        log.append(record)
    log.append(entry(CatalogEntry(kind="route", route=RouteEntry(route="auto", models=["sim-small"]))))
    view = (await started(log, metrics)).view
    assert view.tenants["acme"].weight == 2
    assert set(view.tenants) == {"acme", "beta"}
    assert view.providers["sim"].base_url == "http://127.0.0.1:9999/v1"
    assert view.pools["sim"].slots == 8
    assert view.routes == {"auto": ("sim-small",)}
    assert view.models["sim-small"].prices[0].price_id == "sim-small@2026-11-01"
    assert view.models["sim-small"].prices[0].input == 150_000_000


async def test_the_version_names_the_next_offsets(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    for record in (tenant("acme"), tenant("acme"), pool()):
        log.append(record)
    assert (await started(log, metrics)).view.version == "t2-c1"


async def test_the_last_record_of_a_key_counts(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    log.append(tenant("acme", weight=1))
    log.append(tenant("acme", weight=5))
    assert (await started(log, metrics)).view.tenants["acme"].weight == 5


async def test_a_tombstone_deletes(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    for record in (tenant("acme"), provider(), pool(), model()):
        log.append(record)
    log.append(Outgoing(TENANTS, b"acme", None))
    log.append(Outgoing(CATALOG, b"model/sim-small", None))
    log.append(Outgoing(CATALOG, b"pool/never-applied", None))
    view = (await started(log, metrics)).view
    assert view.tenants == {}
    assert view.models == {}
    assert view.version == "t2-c5"


BAD_TENANT_RECORDS = {
    "no JSON": Outgoing(TENANTS, b"acme", b"{"),
    "a negative weight": Outgoing(TENANTS, b"acme", b'{"schema":"fairlane.tenant.v1","tenant_id":"acme","weight":-1}'),
    "a key of another tenant": Outgoing(TENANTS, b"acme", tenant("beta").value),
    "no key": Outgoing(TENANTS, None, tenant("acme").value),
    "a key that is no text": Outgoing(TENANTS, b"\xff", tenant("acme").value),
}


@pytest.mark.parametrize("bad", BAD_TENANT_RECORDS.values(), ids=BAD_TENANT_RECORDS.keys())
async def test_a_bad_record_is_counted_and_what_was_applied_stays(
    log: MemoryLog, metrics: PrometheusMetrics, bad: Outgoing
) -> None:
    log.append(tenant("acme", weight=3))
    log.append(bad)
    follower = await started(log, metrics)
    assert follower.view.tenants["acme"].weight == 3
    assert set(follower.view.tenants) == {"acme"}
    assert follower.view.version == "t2-c0"
    text = metrics.exposition().decode()
    assert f'fairlane_config_records_total{{outcome="skipped",topic="{TENANTS}"}} 1.0' in text


async def test_a_model_without_its_provider_or_pool_is_kept_and_says_what_is_missing(
    log: MemoryLog, metrics: PrometheusMetrics
) -> None:
    log.append(model())
    follower = await started(log, metrics)
    assert "sim-small" in follower.view.models
    assert follower.view.fault("sim-small") == "the provider sim of model sim-small has not been applied"
    log.append(provider())
    follower = await started(log, metrics)
    assert follower.view.fault("sim-small") == "the pool sim of model sim-small has not been applied"
    log.append(pool())
    follower = await started(log, metrics)
    assert follower.view.fault("sim-small") is None
    assert follower.view.fault("nothing") == "the catalog has no model nothing"


async def test_a_model_without_a_cached_price_bills_cached_tokens_as_input(
    log: MemoryLog, metrics: PrometheusMetrics
) -> None:
    log.append(model("sim-small", {**PRICE, "cached_input": None}))
    row = (await started(log, metrics)).view.models["sim-small"].prices[0]
    assert row.cached_input == row.input


async def test_a_change_reaches_the_view_and_every_listener_while_following(
    log: MemoryLog, metrics: PrometheusMetrics
) -> None:
    log.append(tenant("acme", weight=1))
    follower = await started(log, metrics)
    async with following(follower) as views:
        log.append(tenant("acme", weight=4))
        view = await views.get()
        assert view.tenants["acme"].weight == 4
        assert view.version == "t2-c0"
        assert follower.view is view
        log.append(pool())
        view = await views.get()
        assert view.version == "t2-c1"
        assert view.tenants["acme"].weight == 4


async def test_a_view_once_taken_never_changes(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    log.append(tenant("acme", weight=1))
    follower = await started(log, metrics)
    before = follower.view
    async with following(follower) as views:
        log.append(Outgoing(TENANTS, b"acme", None))
        await views.get()
    assert before.tenants["acme"].weight == 1
    assert follower.view.tenants == {}


async def test_following_goes_on_where_it_was_after_the_log_was_away(
    log: MemoryLog, metrics: PrometheusMetrics
) -> None:
    log.append(tenant("acme"))
    follower = await started(log, metrics)
    log.fail_next("read", Retry("the log is away", after=0), times=4)
    log.append(tenant("beta"))
    async with following(follower) as views:
        assert set((await views.get()).tenants) == {"acme", "beta"}


async def test_a_start_without_a_log_raises_retry(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    log.fail_next("read", Retry("the log is away"))
    with pytest.raises(Retry, match="the log is away"):
        await started(log, metrics)


async def test_following_ends_when_the_process_stops(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    follower = await started(log, metrics)
    stopping = asyncio.Event()
    running = asyncio.create_task(follower.run(stopping))
    await asyncio.sleep(0)
    stopping.set()
    await running


async def test_partitions_that_are_added_later_are_followed_too(log: MemoryLog, metrics: PrometheusMetrics) -> None:
    times = itertools.count(step=PARTITIONS_S)
    follower = await started(log, metrics, lambda: next(times))
    async with following(follower) as views, asyncio.timeout(10):
        log.grow_topic(TENANTS, 2)
        log.append(replace(tenant("late"), partition=1))
        view = await views.get()
    assert set(view.tenants) == {"late"}
