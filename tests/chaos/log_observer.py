"""Reads every topic of the chain while it runs, with the standard JSON parser, and keeps what it read."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from fairlane.adapters.kafka_closing import stop_consumer
from fairlane.devstack.simulation.measures import Limits, charge_units
from fairlane.errors import Fatal
from tests.chaos.stack_config import POOLS

PUBLIC = ("requests", "results", "attempts", "decisions", "dead-letters")
FIELDS = {
    "requests": {"tenant_id", "request_id"},
    "results": {"tenant_id", "request_id", "status", "cost", "attempts", "replayed", "error"},
    "attempts": {"tenant_id", "request_id", "cost"},
    "decisions": {"decision_id", "kind", "attributes"},
    "dead-letters": {"dead_letter_id"},
    "lanes": {"tenant_id", "hold_nano_usd"},
    "inbox": {"tenant_id"},
}
"""What is kept of a record; a whole run has half a million of them."""
CHARGE = "charge_units"
"""Beside that, of a request: the :class:`Limits` of what its dispatch may be charged. Its body is too much to keep."""
HEADERS = {"fairlane-source", "fairlane-slot", "fairlane-dispatch"}
STOP_S = 10.0
TOPICS = (*PUBLIC, *(f"{kind}.{pool}" for pool in POOLS for kind in ("lanes", "inbox")))


class Seen(NamedTuple):
    """A record. ``at_s`` is the time it carries, ``seen_s`` when it was read; seconds since the epoch."""

    topic: str
    partition: int
    offset: int
    at_s: float
    seen_s: float
    key: str
    document: dict[str, Any]
    headers: dict[str, str]

    @property
    def place(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def key_of_request(self) -> str:
        """``tenant/request`` as the document says; empty where it does not say both."""
        tenant, request = self.document.get("tenant_id"), self.document.get("request_id")
        return f"{tenant}/{request}" if isinstance(tenant, str) and isinstance(request, str) else ""

    @property
    def made_from(self) -> str:
        """The place of the record it was made from; empty where it names none."""
        return self.headers.get("fairlane-source", "")


class LogObserver:
    """Follows the topics from their beginning, from :meth:`start` to :meth:`stop`."""

    def __init__(self, bootstrap: str, prefix: str) -> None:
        self._bootstrap, self._prefix = bootstrap, prefix
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.records: dict[str, list[Seen]] = {topic: [] for topic in TOPICS}
        """By topic, without the prefix."""
        self.results_of: dict[str, list[Seen]] = defaultdict(list)
        """By key, in the order of offsets."""
        self.spent: Counter[str] = Counter()
        """By tenant the costs of all first results, in nano-dollars."""

    async def start(self) -> None:
        """Begin reading. Raises Fatal if a topic is missing."""
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, fetch_max_wait_ms=100
        )
        await self._consumer.start()
        await self._consumer._client.force_metadata_update()
        partitions = []
        for topic in TOPICS:
            numbers = self._consumer.partitions_for_topic(self._prefix + topic)
            if not numbers:
                raise Fatal(f"topic {self._prefix + topic} is missing")
            partitions += [TopicPartition(self._prefix + topic, number) for number in numbers]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_beginning(*partitions)
        self._task = asyncio.create_task(self._read(), name="observer")

    async def stop(self) -> None:
        """Stop reading. Raises what ended it before its time."""
        self._stopping = True
        try:
            if self._task is not None:
                # Not cancelled: the client can take a cancellation for the end of its own wait, and go on.
                done, _ = await asyncio.wait([self._task], timeout=STOP_S)
                for task in done:
                    task.result()
        finally:
            if self._consumer is not None:
                await stop_consumer(self._consumer)

    def marks(self) -> dict[str, int]:
        """How many records of each topic were read so far."""
        return {topic: len(records) for topic, records in self.records.items()}

    def since(self, marks: Mapping[str, int]) -> dict[str, list[Seen]]:
        """The records read since then."""
        return {topic: records[marks[topic] :] for topic, records in self.records.items()}

    def answered_s(self, key: str) -> float | None:
        """When the first result of a request was read."""
        results = self.results_of.get(key)
        return results[0].seen_s if results else None

    async def _read(self) -> None:
        cut = len(self._prefix)
        while not self._stopping:
            batches = await self._consumer.getmany(timeout_ms=200)
            now = time.time()
            for tp, records in batches.items():
                topic = tp.topic[cut:]
                for record in records:
                    self._take(topic, tp.topic, record, now)

    def _take(self, topic: str, full_name: str, record: Any, now: float) -> None:
        kept = FIELDS[topic.partition(".")[0]]
        document = _document(record.value)
        seen = Seen(
            full_name,
            record.partition,
            record.offset,
            record.timestamp / 1000,
            now,
            (record.key or b"").decode("utf-8", "replace"),
            {name: value for name, value in document.items() if name in kept},
            {name: value.decode("utf-8", "replace") for name, value in record.headers if name in HEADERS},
        )
        if topic == "requests" and (limits := charge_limits(document)) is not None:
            seen.document[CHARGE] = limits
        self.records[topic].append(seen)
        if topic == "results":
            # The records of a key share a partition, which is read in order: the first one seen wins.
            if seen.key not in self.results_of:
                self.spent[seen.document["tenant_id"]] += seen.document["cost"]["nano_usd"]
            self.results_of[seen.key].append(seen)


def charge_limits(request: Mapping[str, Any]) -> Limits | None:
    """What a dispatch of a request may be charged, in units of service; None for what is no good request."""
    try:
        return charge_units(request["body"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def _document(value: bytes | None) -> dict[str, Any]:
    try:
        document = json.loads(value or b"null")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
