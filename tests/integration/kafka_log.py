"""Kafka as the contract suites see it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.ports import LogConsumer
from fairlane.streams.assignor import pool_assignor, sticky_assignor
from fairlane.streams.kafka_consumer import KafkaConsumer

SESSION_TIMEOUT_MS = 6_000
"""The least a broker allows by default."""


class KafkaLogUnderTest:
    """One prefix of names per test on a shared broker. Use as an async context."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.max_record_bytes = 3_000_000
        self.prefix = f"t{uuid.uuid4().hex[:8]}."
        self.publisher = KafkaPublisher(
            bootstrap, self.prefix + "publisher", max_record_bytes=self.max_record_bytes, metadata_timeout_ms=1_500
        )
        self.reader = KafkaReader(bootstrap, answer_timeout_ms=3_000)
        self._admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._topics = 0

    async def __aenter__(self) -> Self:
        await self._admin.start()
        await self.publisher.start()
        await self.reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.publisher.stop()
        await self.reader.stop()
        await self._admin.close()

    async def topic(self, partitions: int = 4, name: str = "t", **config: str) -> str:
        full = self.prefix + name
        settings = {"max.message.bytes": str(self.max_record_bytes + 1_000)} | {
            key.replace("_", "."): value for key, value in config.items()
        }
        await self._admin.create_topics([NewTopic(full, partitions, 1, topic_configs=settings)])
        await self.publisher.partitions(full)
        return full

    def name(self, base: str) -> str:
        self._topics += 1
        return f"{self.prefix}{base}-{self._topics}"

    def consumer(
        self,
        group: str,
        topics: Iterable[str] = (),
        *,
        pattern: str | None = None,
        instance: str = "",
        whole_topics: bool = False,
    ) -> LogConsumer:
        return KafkaConsumer(
            self.bootstrap,
            group,
            topics,
            pattern=pattern,
            instance=instance,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            assignor=pool_assignor() if whole_topics else sticky_assignor(),
        )

    async def freeze(self, consumer: LogConsumer) -> None:
        """Stop what aiokafka does by itself; the sockets stay open, as under SIGSTOP."""
        assert isinstance(consumer, KafkaConsumer)
        coordinator = consumer._consumer._coordinator
        tasks = [coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task]
        for task in tasks:
            if task is not None:
                task.cancel()

    async def kill(self, consumer: LogConsumer) -> None:
        """Close the sockets without a word to the group."""
        assert isinstance(consumer, KafkaConsumer)
        inner = consumer._consumer
        inner._closed = True  # first, so that nobody who stops it now leaves the group in good order
        await self.freeze(consumer)
        await inner._fetcher.close()
        await inner._client.close()
