"""A stage over the log in memory, fed by hand: what an engine does, one step at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.agents.config_view import ConfigView, ModelEntry, price_row
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import ManualClock
from fairlane.ports import Outgoing, Record, Restored, Stage, TopicPartition
from fairlane.schemas.catalog import Model, Pool, Provider
from fairlane.schemas.tenant import Tenant

PREFIX = "test."
NAMES = TopicNames(PREFIX)


def model_entry(name: str, pool: str = "sim") -> ModelEntry:
    """A model at 150 and 600 nano-dollars a token."""
    document = {
        "model": name,
        "provider": "sim",
        "pool": pool,
        "context_tokens": 8000,
        "max_output_tokens": 100,
        "prices": [{"from": "2020-01-01T00:00:00Z", "input": "0.15", "output": "0.60"}],
    }
    model = Model.model_validate_json(orjson.dumps(document))
    return ModelEntry(model, tuple(price_row(name, price) for price in model.prices))


def config(*, slots: int = 2, weights: dict[str, float] | None = None, cap: int = 1000) -> ConfigView:
    """One pool, one model ``m``, and tenants by weight (``acme`` alone unless said)."""
    return ConfigView(
        version="t1-c1",
        tenants={
            name: Tenant(tenant_id=name, weight=weight, max_undispatched=cap)
            for name, weight in (weights or {"acme": 1}).items()
        },
        providers={"sim": Provider(provider="sim", base_url="http://127.0.0.1:1/v1")},
        pools={"sim": Pool(pool="sim", slots=slots)},
        models={"m": model_entry("m")},
        routes={},
    )


def request(request_id: str, tenant: str = "acme", *, text: str = "Hello", **changes: Any) -> bytes:
    """A valid request."""
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": text}]}
    return orjson.dumps(
        {"schema": "fairlane.request.v1", "request_id": request_id, "tenant_id": tenant, "body": body, **changes}
    )


class World:
    """A log with the registry's topics, its clients, a clock, and what was reported as fatal."""

    def __init__(self) -> None:
        self.clock = ManualClock(1_795_000_000_000)
        self.log = MemoryLog(self.clock)
        self.log.create_topics(PREFIX, ["sim"])
        self.publisher = MemoryPublisher(self.log)
        self.reader = MemoryReader(self.log)
        self.fatal: list[BaseException] = []
        self.lease = True

    def put(self, topic: str, value: bytes | None, key: bytes | None = b"k", partition: int | None = 0) -> Record:
        """Append a record as a foreign client would."""
        return self.log.append(Outgoing(topic, key, value, (), partition))

    def values(self, topic: str) -> list[dict[str, Any]]:
        """All records of a topic, decoded."""
        return [orjson.loads(record.value) for record in self.log.records(topic) if record.value]


class Feed:
    """Feeds one stage from topics of a world and keeps what is done."""

    def __init__(self, world: World, stage: Stage, *topics: str) -> None:
        self.world = world
        self.stage = stage
        self.topics = topics
        self.done: set[tuple[str, int, int]] = set()
        self._taken: dict[TopicPartition, int] = {}

    async def assign(self, committed: dict[TopicPartition, int] | None = None) -> None:
        """Own all partitions, from the committed offsets on."""
        restored = {}
        for topic in self.topics:
            for partition, end in (await self.world.reader.ends(topic)).items():
                tp = TopicPartition(topic, partition)
                self._taken[tp] = (committed or {}).get(tp, 0)
                restored[tp] = Restored(self._taken[tp], end)
        await self.stage.assigned(restored)

    async def step(self) -> None:
        """Deliver everything new in one batch and wait until writes are acknowledged."""
        batch = []
        for tp, start in self._taken.items():
            end = (await self.world.reader.ends(tp.topic))[tp.partition]
            batch += self.world.log.slice(tp, start, end - start)
            self._taken[tp] = end
        await self.stage.process(batch, self._done)
        await self.settle()

    async def settle(self) -> None:
        """Let acknowledgements and followers run."""
        await self.world.publisher.flush()
        for _ in range(20):
            await asyncio.sleep(0)

    def _done(self, record: Record) -> None:
        self.done.add((record.topic, record.partition, record.offset))
