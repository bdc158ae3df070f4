"""The log in memory keeps the contract of every log."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.policy.assignment import sticky, whole_topics
from fairlane.ports import LogConsumer
from tests.contract.log_contract import ConsumerContract, PublisherContract, ReaderContract
from tests.contract.log_under_test import members

__all__ = ["members"]


class MemoryLogUnderTest:
    def __init__(self) -> None:
        self.memory = MemoryLog()
        self.publisher = MemoryPublisher(self.memory)
        self.reader = MemoryReader(self.memory)
        self.max_record_bytes = self.memory.max_record_bytes
        self._names = 0

    async def topic(self, partitions: int = 4, name: str = "t") -> str:
        self.memory.create_topic(full := f"m.{name}", partitions)
        return full

    def name(self, base: str) -> str:
        self._names += 1
        return f"{base}-{self._names}"

    def consumer(
        self,
        group: str,
        topics: Iterable[str] = (),
        *,
        pattern: str | None = None,
        instance: str = "",
        whole_topics: bool = False,
    ) -> LogConsumer:
        return MemoryConsumer(
            self.memory,
            group,
            topics,
            pattern=pattern,
            instance=instance,
            session_timeout_ms=300,
            assign=_whole if whole_topics else sticky,
        )

    async def freeze(self, consumer: LogConsumer) -> None:
        assert isinstance(consumer, MemoryConsumer)
        consumer.vanish()

    async def kill(self, consumer: LogConsumer) -> None:
        assert isinstance(consumer, MemoryConsumer)
        consumer.vanish()


_whole = whole_topics


@pytest.fixture
async def log() -> MemoryLogUnderTest:
    return MemoryLogUnderTest()


class TestMemoryPublisher(PublisherContract):
    pass


class TestMemoryReader(ReaderContract):
    pass


class TestMemoryConsumer(ConsumerContract):
    pass
