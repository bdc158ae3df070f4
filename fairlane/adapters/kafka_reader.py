"""The :class:`~fairlane.ports.LogReader` on Kafka: ranges of topics without a consumer group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import stamina
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

from fairlane.adapters.kafka_closing import stop_consumer
from fairlane.adapters.kafka_fetching import FetchGate
from fairlane.adapters.kafka_foreign_records import record_of, tolerate_foreign_records
from fairlane.errors import Fatal, Retry
from fairlane.ports import Position, Record

IDLE_MS = 500
"""A follower hears from us this often while nothing arrives."""
BATCH_RECORDS = 1_000


class KafkaReader:
    """See :class:`~fairlane.ports.LogReader`. Call :meth:`start` first and :meth:`stop` last.

    Every :meth:`read` has connections of its own, so reads do not wait for each other. Where one is
    left early, close it (``contextlib.aclosing``). ``answer_timeout_ms`` is how long brokers may be
    silent before Retry is raised.
    """

    def __init__(self, bootstrap: str, client_id: str = "fairlane-reader", *, answer_timeout_ms: int = 20_000) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._answer_timeout_s = answer_timeout_ms / 1000
        self._consumer: Any = None
        self._admin: Any = None

    async def start(self) -> None:
        """Connect. Raises Retry if the brokers cannot be reached."""
        consumer = self._new_consumer()
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self._bootstrap, client_id=self._client_id, request_timeout_ms=10_000
        )
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                await consumer.start()
                await admin.start()
        except (KafkaError, OSError, TimeoutError) as failure:
            await stop_consumer(consumer)
            await admin.close()
            raise Retry(f"Kafka at {self._bootstrap} does not answer: {failure}", after=1.0) from failure
        self._consumer, self._admin = consumer, admin

    async def stop(self) -> None:
        """Close the connections."""
        consumer, self._consumer = self._consumer, None
        admin, self._admin = self._admin, None
        if consumer is not None:
            await stop_consumer(consumer)
        if admin is not None:
            await admin.close()

    async def ends(self, topic: str) -> Mapping[int, int]:
        """For each partition the offset after its last record."""
        with self._described(topic):
            async with asyncio.timeout(self._answer_timeout_s):
                found = await self._consumer.end_offsets(await self._partitions(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def starts(self, topic: str) -> Mapping[int, int]:
        """For each partition the first offset that is still kept."""
        with self._described(topic):
            async with asyncio.timeout(self._answer_timeout_s):
                found = await self._consumer.beginning_offsets(await self._partitions(topic))
        return {tp.partition: offset for tp, offset in found.items()}

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        """For each partition the first offset whose record is not older; the end if there is none."""
        # The ends first: what is appended in between is then still at or after the answer.
        ends = await self.ends(topic)
        with self._described(topic):
            async with asyncio.timeout(self._answer_timeout_s):
                wanted = dict.fromkeys(await self._partitions(topic), max(timestamp_ms, 0))
                found = await self._consumer.offsets_for_times(wanted)
        return {tp.partition: at.offset if at is not None else ends[tp.partition] for tp, at in found.items()}

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield records; see the port."""
        left = {
            TopicPartition(topic, partition): None if ends is None else ends.get(partition, 0)
            for partition, start in starts.items()
            if ends is None or start < ends.get(partition, 0)
        }
        if not left:
            return
        consumer = self._new_consumer(committed_only=committed_only)
        try:
            with self._described(topic):
                async with asyncio.timeout(self._answer_timeout_s):
                    await consumer.start()
                    tolerate_foreign_records(consumer)
                    await consumer._client._wait_on_metadata(topic)
                    if committed_only and ends is not None:
                        # Behind that nobody who reads what is committed has read anything yet.
                        for tp, decided in (await consumer.end_offsets(list(left))).items():
                            left[tp] = min(decided, ends[tp.partition])
                consumer.assign(list(left))
                for tp in left:
                    consumer.seek(tp, starts[tp.partition])
            answered = _LastAnswer(consumer, list(left))
            gate = FetchGate(consumer)
            while left:
                gate.open()
                with self._described(topic):
                    fetched = await consumer.getmany(*left, timeout_ms=IDLE_MS, max_records=BATCH_RECORDS)
                found = [
                    record_of(message)
                    for tp, messages in fetched.items()
                    for message in messages
                    if (end := left[tp]) is None or message.offset < end
                ]
                if ends is None:
                    # A follower may let more gather. A range is fetched ahead of its reader.
                    gate.close()
                if found or ends is None:
                    asked_until = time.monotonic()
                    yield found
                    answered.leave_out(time.monotonic() - asked_until)
                for tp, end in list(left.items()):
                    # Not the last record's offset: a range may end in a gap. And not position(), which waits.
                    state = consumer._subscription.subscription.assignment.state_value(tp)
                    if end is not None and state.has_valid_position and state.position >= end:
                        del left[tp]
                        consumer.pause(tp)
                if answered.silent_s() > self._answer_timeout_s:
                    raise Retry(
                        f"topic {topic}: no answer from its brokers for {self._answer_timeout_s:g} s", after=1.0
                    )
        finally:
            await stop_consumer(consumer)

    async def group_positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """The committed positions of a consumer group, with metadata; partitions without are absent."""
        found: Mapping[Any, Any] = {}
        with self._described(topic):
            async with asyncio.timeout(self._answer_timeout_s):
                partitions = await self._partitions(topic)
                async for attempt in stamina.retry_context(
                    on=_retriable, attempts=None, timeout=None, wait_initial=0.1, wait_max=1.0
                ):
                    with attempt:
                        found = await self._admin.list_consumer_group_offsets(group, partitions=partitions)
        return {
            tp.partition: Position(committed.offset, committed.metadata or "")
            for tp, committed in found.items()
            if committed.offset >= 0
        }

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for p in sorted(await self._consumer._client._wait_on_metadata(topic))]

    def _new_consumer(self, *, committed_only: bool = False) -> Any:
        return AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed" if committed_only else "read_uncommitted",
            fetch_max_wait_ms=IDLE_MS,
            request_timeout_ms=10_000,
            check_crcs=False,  # TCP and the broker check already; saves a pass over every byte
        )

    @contextmanager
    def _described(self, topic: str) -> Iterator[None]:
        if self._consumer is None:
            raise Fatal("the log reader is not started")
        try:
            yield
        except (UnknownTopicOrPartitionError, TimeoutError) as failure:
            raise Retry(f"topic {topic}: the brokers do not know it or do not answer", after=1.0) from failure
        except (KafkaError, OSError) as failure:
            raise Retry(f"topic {topic}: {type(failure).__name__}: {failure}", after=1.0) from failure


class _LastAnswer:
    """How long ago a broker last answered a fetch, from the marks aiokafka leaves (wall clock) on each one."""

    def __init__(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._mark = 0
        self._since = time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """So long nothing was asked: that is no silence."""
        self._since += seconds

    def silent_s(self) -> float:
        marks = [self._consumer.last_poll_timestamp(tp) or 0 for tp in self._partitions]
        if (mark := max(marks)) != self._mark:
            self._mark, self._since = mark, time.monotonic()
        return time.monotonic() - self._since


def _retriable(failure: Exception) -> bool:
    return isinstance(failure, KafkaError) and bool(failure.retriable)
