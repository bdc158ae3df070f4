"""The sinks from Kafka to ClickHouse: kill -9 under load loses no row and makes none twice."""

from __future__ import annotations

import asyncio
import random
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.adapters.kafka_topics import create_topics
from fairlane.ports import Outgoing
from fairlane.schemas.base import WireModel, timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.topics import request_key
from fairlane.sinks.connection import ClickHouseConnection
from fairlane.sinks.migrate import migrate
from fairlane.sinks.rows import feeds_by_topic
from tests import sink_samples as samples

PROGRAM = Path(__file__).parent / "sink_process.py"


class Pipeline:
    """A prefix of topics and a database of its own, and the processes that run on them."""

    def __init__(self, bootstrap: str, url: str, publisher: KafkaPublisher, reader: KafkaReader) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.prefix = self.name + "."
        self.clickhouse = ClickHouseConnection(url)
        self.processes: list[asyncio.subprocess.Process] = []
        self._bootstrap, self._url = bootstrap, url
        self._publisher, self._reader = publisher, reader

    async def start(self, rows: int) -> asyncio.subprocess.Process:
        arguments = (self._bootstrap, self.prefix, self._url, self.name, str(rows))
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROGRAM), *arguments, stdout=asyncio.subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        self.processes.remove(process)
        process.kill()
        await process.wait()

    async def send(self, topic: str, models: Sequence[tuple[bytes, WireModel]]) -> None:
        futures = [self._publisher.send(Outgoing(self.prefix + topic, key, encode(model))) for key, model in models]
        await asyncio.gather(*futures)

    async def send_results(self, first: int, last: int) -> None:
        made = [samples.result(f"r-{n}") for n in range(first, last + 1)]
        await self.send("results", [(request_key(m.tenant_id, m.request_id), m) for m in made])

    async def figures(self, table: str, what: str) -> Sequence[Any]:
        [row] = await self.clickhouse.rows(f"SELECT {what} FROM {self.name}.{table}")
        return row

    async def all_committed(self) -> bool:
        for topic in feeds_by_topic(self.prefix):
            positions = await self._reader.group_positions(self.prefix + "sinks", topic)
            for partition, end in (await self._reader.ends(topic)).items():
                if end and (partition not in positions or positions[partition].offset < end):
                    return False
        return True

    async def settle(self) -> None:
        async with asyncio.timeout(60):
            while not await self.all_committed():  # noqa: ASYNC110  (another process decides when)
                await asyncio.sleep(0.1)


@pytest.fixture
async def pipeline(kafka_bootstrap: str, clickhouse_url: str) -> AsyncIterator[Pipeline]:
    publisher, reader = KafkaPublisher(kafka_bootstrap, "test"), KafkaReader(kafka_bootstrap)
    await publisher.start()
    await reader.start()
    made = Pipeline(kafka_bootstrap, clickhouse_url, publisher, reader)
    await create_topics(kafka_bootstrap, made.prefix)
    await migrate(made.clickhouse, made.name)
    yield made
    for process in list(made.processes):
        await made.kill(process)
    await made.clickhouse.command(f"DROP DATABASE {made.name}")
    await made.clickhouse.close()
    await reader.stop()
    await publisher.stop()


async def test_every_public_record_arrives_in_its_table(pipeline: Pipeline) -> None:
    await pipeline.send_results(1, 500)
    await pipeline.send_results(1, 20)  # terminals of keys that have one
    await pipeline.send("attempts", [(b"k", samples.attempt(1)), (b"k", samples.attempt(2))])
    await pipeline.send("decisions", [(b"k", samples.decision())])
    letter = samples.dead_letter().model_copy(update={"redriven_at": None})
    again = letter.model_copy(update={"redriven_at": timestamp_from_ms(1_795_000_000_000)})
    await pipeline.send("dead-letters", [(letter.dead_letter_id.encode(), item) for item in (letter, again)])
    process = await pipeline.start(rows=100)
    await pipeline.settle()
    assert list(await pipeline.figures("requests", "count(), uniqExact(request_id), sum(cost_nano_usd)")) == [
        500, 500, 500 * 8550,
    ]  # fmt: skip
    for table, rows in (("attempts", 2), ("decisions", 1), ("dead_letters", 2)):
        assert list(await pipeline.figures(table, "count()")) == [rows]
    # Dead-lettered and redriven are two events of one dead letter.
    assert list(await pipeline.figures("dead_letters_current", "count(), countIf(redriven_at IS NOT NULL)")) == [1, 1]
    process.terminate()
    assert await process.wait() == 0
    pipeline.processes.remove(process)


async def test_kills_under_load_lose_no_row_and_make_none_twice(pipeline: Pipeline) -> None:
    rng = random.Random(7)
    processes = [await pipeline.start(rows=80)]
    sent = 0
    for _ in range(3):
        while (await pipeline.figures("requests", "count()"))[0] < sent * 0.5:  # noqa: ASYNC110  (the same)
            await asyncio.sleep(0.02)
        for _ in range(3):
            await pipeline.send_results(sent + 1, sent + 700)
            sent += 700
        await asyncio.sleep(rng.random())
        await pipeline.kill(processes.pop())
        processes.append(await pipeline.start(rows=rng.randrange(20, 200)))
    await pipeline.settle()
    assert list(await pipeline.figures("requests", "count(), uniqExact(request_id)")) == [sent, sent]
