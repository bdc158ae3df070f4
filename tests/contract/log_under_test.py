"""What the suites of ``log_contract`` need: the log under test, members side by side, reading and writing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pytest

from fairlane.ports import (
    LogConsumer,
    LogReader,
    Outgoing,
    Publisher,
    Record,
    TopicPartition,
)

PATIENCE_S = 40.0
"""How long a condition may take before the test fails; never a pause."""


class LogUnderTest(Protocol):
    """One implementation. ``max_record_bytes`` is the publisher's limit."""

    max_record_bytes: int

    @property
    def publisher(self) -> Publisher:
        """Started."""
        ...

    @property
    def reader(self) -> LogReader:
        """Started."""
        ...

    async def topic(self, partitions: int = 4, name: str = "t") -> str:
        """A new topic."""
        ...

    def name(self, base: str) -> str:
        """A name nobody else uses, such as one for a group."""
        ...

    def consumer(
        self,
        group: str,
        topics: Iterable[str] = (),
        *,
        pattern: str | None = None,
        instance: str = "",
        whole_topics: bool = False,
    ) -> LogConsumer:
        """A new member, not started. Its session timeout is short."""
        ...

    async def freeze(self, consumer: LogConsumer) -> None:
        """As SIGSTOP: nothing more is heard from the member, and it does not know."""
        ...

    async def kill(self, consumer: LogConsumer) -> None:
        """As kill -9."""
        ...


class Listener:
    """Remembers what it was told."""

    def __init__(self, lease_ok: Callable[[], bool]) -> None:
        self.owned: frozenset[TopicPartition] | None = None
        self.events: list[tuple[str, frozenset[TopicPartition]]] = []
        self.sure: list[bool] = []
        self._lease_ok = lease_ok

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        self.sure.append(self._lease_ok())
        self.owned = partitions
        self.events.append(("assigned", partitions))

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self.owned = None
        self.events.append(("revoked", partitions))


class Members:
    """Polls several consumers side by side until a condition holds."""

    def __init__(self) -> None:
        self.members: list[tuple[LogConsumer, Listener, list[Record]]] = []

    async def add(self, consumer: LogConsumer) -> tuple[Listener, list[Record]]:
        listener = Listener(consumer.lease_ok)
        await consumer.start(listener)
        records: list[Record] = []
        self.members.append((consumer, listener, records))
        return listener, records

    def drop(self, consumer: LogConsumer) -> None:
        self.members = [member for member in self.members if member[0] is not consumer]

    async def until(self, condition: Any, max_records: int = 100) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                polled = await asyncio.gather(*(member[0].poll(max_records, 50) for member in self.members))
                for (_, _, records), batch in zip(self.members, polled, strict=True):
                    assert sum(len(part) for part in batch.values()) <= max_records
                    for part in batch.values():
                        records.extend(part)

    async def settled(self, partitions: int) -> None:
        """Until every partition has exactly one owner and each member knows what it has."""

        def complete() -> bool:
            owned = [listener.owned for _, listener, _ in self.members]
            return all(o is not None for o in owned) and sum(len(o or ()) for o in owned) == partitions

        await self.until(complete)

    async def stop(self) -> None:
        for consumer, _, _ in self.members:
            await consumer.stop()


@pytest.fixture
async def members() -> Any:
    group = Members()
    yield group
    await group.stop()


async def write(log: LogUnderTest, topic: str, count: int, partition: int | None = None) -> list[Record]:
    futures = [
        log.publisher.send(Outgoing(topic, b"k%d" % i, b"v%d" % i, (("n", b"%d" % i),), partition))
        for i in range(count)
    ]
    return list(await asyncio.gather(*futures))


async def read_all(log: LogUnderTest, topic: str) -> list[Record]:
    found: list[Record] = []
    async for batch in log.reader.read(topic, await log.reader.starts(topic), await log.reader.ends(topic)):
        found.extend(batch)
    return sorted(found, key=lambda record: (record.partition, record.offset))


def by_partition(records: Iterable[Record]) -> Mapping[int, Sequence[int]]:
    offsets: dict[int, list[int]] = {}
    for record in records:
        offsets.setdefault(record.partition, []).append(record.offset)
    return offsets
