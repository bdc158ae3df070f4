"""The whole chain as processes, for tests: `fairlane up` on given services, with topics of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.ports import TenantUsage

UP_TIMEOUT_S = 90


@dataclass
class Chain:
    """A running chain. Everything is asked through public contracts: topics, commands, SQL."""

    kafka: str
    redis: str
    clickhouse: str
    state_dir: Path
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}.")
    extra_env: Mapping[str, str] = field(default_factory=dict)

    @property
    def database(self) -> str:
        """Its own ClickHouse database."""
        return self.prefix.rstrip(".")

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command of this chain."""
        return {
            **os.environ,
            "FAIRLANE_KAFKA_BOOTSTRAP": self.kafka,
            "FAIRLANE_REDIS_URL": self.redis,
            "FAIRLANE_CLICKHOUSE_URL": self.clickhouse,
            "FAIRLANE_CLICKHOUSE_DATABASE": self.database,
            "FAIRLANE_TOPIC_PREFIX": self.prefix,
            "FAIRLANE_GROUP_PREFIX": self.prefix,
            "FAIRLANE_STATE_DIR": str(self.state_dir),
            "FAIRLANE_FREE_PORTS": "1",
            **self.extra_env,
        }

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A `fairlane` command of this chain."""
        done = subprocess.run(
            [sys.executable, "-m", "fairlane", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"fairlane {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self) -> None:
        """Start every stage; returns when all are ready."""
        self.run("up", "--detach")

    def down(self) -> None:
        """Stop every stage; says so if the command failed."""
        self.run("down")

    def status(self) -> dict[str, Any]:
        """What `fairlane status --json` prints."""
        status: dict[str, Any] = json.loads(self.run("status", "--json", check=False).stdout)
        return status

    def kill(self, stage: str) -> int:
        """kill -9 one process of a stage; returns its pid."""
        pid: int = next(row["pid"] for row in self.status()["stages"] if row["stage"] == stage)
        os.kill(pid, signal.SIGKILL)
        return pid

    async def produce(self, documents: Iterable[Mapping[str, Any] | bytes]) -> None:
        """Produce requests as any client would."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka, acks="all")
        await producer.start()
        try:
            acks = []
            for document in documents:
                value = document if isinstance(document, bytes) else json.dumps(document).encode()
                acks.append(await producer.send(self.prefix + "requests", value))
            await asyncio.gather(*acks)
        finally:
            await producer.stop()

    async def read(self, topic: str, until: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        """All records of a topic from its beginning, once there are at least ``until`` of them."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, enable_auto_commit=False)
        await consumer.start()
        found: list[dict[str, Any]] = []
        try:
            name = self.prefix + topic
            await consumer._client.force_metadata_update()
            partitions = [TopicPartition(name, p) for p in consumer.partitions_for_topic(name) or ()]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            async with asyncio.timeout(timeout_s):
                while True:
                    batches = await consumer.getmany(timeout_ms=300)
                    for records in batches.values():
                        found += [json.loads(record.value) for record in records if record.value]
                    if not batches and len(found) >= until:
                        return found
        except TimeoutError:
            raise AssertionError(f"{len(found)} of {until} records on {topic} after {timeout_s} s") from None
        finally:
            await consumer.stop()

    async def results(self, until: int, timeout_s: float = 60.0) -> dict[str, dict[str, Any]]:
        """Results by request id; fails on a second record of a request."""
        records = await self.read("results", until, timeout_s)
        counts = Counter(record["request_id"] for record in records)
        twice = {request: count for request, count in counts.items() if count > 1}
        assert not twice, f"more than one terminal result: {twice}"
        return {record["request_id"]: record for record in records}

    async def usage(self, tenants: list[str]) -> list[TenantUsage]:
        """Live figures of tenants."""
        store = RedisAdmissionStore(self.redis, self.prefix)
        try:
            return list(await store.usage(tenants))
        finally:
            await store.close()

    async def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query, as a curl user gets them."""
        params = {"query": f"{query} FORMAT JSONEachRow", "database": self.database}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.clickhouse, params=params) as response,
        ):
            text = await response.text()
            assert response.status == 200, text
            return [json.loads(line) for line in text.splitlines()]


def request(request_id: str, tenant: str = "acme", **changes: Any) -> dict[str, Any]:
    """A small request to an instant model."""
    body = {
        "model": "sim-instant",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "Hello"}],
        **changes.pop("body", {}),
    }
    return {"schema": "fairlane.request.v1", "request_id": request_id, "tenant_id": tenant, "body": body, **changes}
