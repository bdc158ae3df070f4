"""The wire of a run: sends inputs as a foreign client would, and collects all that the chain writes about them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from tests.bad_input.case import CANARIES, Input
from tests.bad_input.raw_batch import RawBatch

FOLLOWED = ("results", "dead-letters", "decisions")
LANES = "lanes."
"""Beside them the topics that begin so: what became of a record that came into a lane is made from another record."""
LARGEST_BYTES = 16_000_000


@dataclass(frozen=True)
class Sent:
    """Where an input stands in the log, and since when (the broker's clock, ms); or that the broker refused it."""

    partition: int = -1
    offset: int = -1
    time_ms: int = -1
    refused: str | None = None


@dataclass
class Seen:
    """All that was written: by source record, by request, and what has a secret in it."""

    decided_ms: dict[str, int] = field(default_factory=dict)
    letters: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    results: defaultdict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    results_by_source: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """Those that were made from a record itself: its refusals. Others are made from a record of a stage."""
    lanes: defaultdict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """By source record whose request came into a lane, once for each record there."""
    leaks: list[tuple[str, int, int]] = field(default_factory=list)


class Wire:
    """A producer and a follower of the public topics and the lanes. Use as an async context.

    Raises AssertionError where there is no lane to follow.
    """

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self.prefix = prefix
        self.seen = Seen()
        self.foreign: set[tuple[str, int, int]] = set()
        self._changed = asyncio.Condition()
        # Not idempotent: batches of our own making carry no sequence numbers.
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=LARGEST_BYTES)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100, max_poll_records=5000
        )
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._producer.start()
        await self._consumer.start()
        await self._consumer._client.force_metadata_update()
        known = self._consumer._client.cluster.topics()
        lanes = sorted(name for name in known if name.startswith(self.prefix + LANES))
        assert lanes, f"no lanes of {self.prefix} to follow"
        partitions = [
            TopicPartition(name, p)
            for name in (*(self.prefix + name for name in FOLLOWED), *lanes)
            for p in self._consumer.partitions_for_topic(name) or ()
        ]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._following is not None
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._consumer.stop()
        await self._producer.stop()

    async def send(self, item: Input, partition: int) -> Sent:
        """Send one input and wait for the broker's answer."""
        topic = self.prefix + item.topic
        try:
            if item.batch is not None:
                batch = RawBatch(item.batch, item.count)
                ack = await self._producer.send_batch(batch, topic, partition=partition)
            else:
                ack = await self._producer.send(
                    topic, item.value, item.key, partition, item.timestamp_ms, list(item.headers)
                )
            found = await ack
        except KafkaError as failure:
            return Sent(refused=type(failure).__name__)
        if item.topic in FOLLOWED:
            self.foreign.add((topic, found.partition, found.offset))
        return Sent(found.partition, found.offset, found.timestamp)

    def source(self, sent: Sent, delta: int = 0, topic: str = "requests") -> str:
        """How the chain names a record."""
        return f"{self.prefix}{topic}/{sent.partition}/{sent.offset + delta}"

    async def until(self, condition: Any, timeout_s: float) -> bool:
        """Wait until what was seen fulfils a condition; False if it does not in time."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return False
        return True

    def leaks(self) -> list[tuple[str, int, int]]:
        """Records of the chain with a secret of the corpus in them."""
        return [place for place in self.seen.leaks if place not in self.foreign]

    async def _follow(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=100)
            for records in batches.values():
                for record in records:
                    self._take(record)
            if batches:
                async with self._changed:
                    self._changed.notify_all()

    def _take(self, record: Any) -> None:
        headers: Mapping[str, bytes] = dict(record.headers)
        source = headers.get("fairlane-source", b"").decode(errors="replace")
        topic = record.topic.removeprefix(self.prefix)
        if topic.startswith(LANES):
            # Before the search for secrets: the whole request is in there, and has to be.
            if record.value is not None:
                job = orjson.loads(record.value)
                self.seen.lanes[source].append((job["tenant_id"], job["request_id"]))
            return
        whole = b"\n".join([record.key or b"", record.value or b"", *headers.values()])
        if any(canary in whole for canary in CANARIES):
            self.seen.leaks.append((record.topic, record.partition, record.offset))
        if topic == "decisions":
            self.seen.decided_ms.setdefault(source, record.timestamp)
            return
        try:
            document = orjson.loads(record.value or b"")
        except orjson.JSONDecodeError:
            return  # only what the corpus itself wrote; the chain's own records are checked by what is missing
        if topic == "dead-letters":
            self.seen.letters[document["dead_letter_id"]].append(document)
        elif source and isinstance(document, dict):
            self.seen.results[document["tenant_id"], document["request_id"]].append(document)
            self.seen.results_by_source[source].append(document)
