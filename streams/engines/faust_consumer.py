"""Faust's Kafka driver, changed in three ways: events are batches, positions are ours, waits are bounded.

Faust makes one event of each record (165 µs of CPU each) and commits what its streams acknowledged,
by a rule that passes over unfinished records (faust-streaming issue 606). Here one event is all that
one poll returned, and every commit comes from a :class:`Feed`.
"""

# ruff: noqa: SLF001 - Faust offers no seam here; both libraries are pinned to one version because of it.

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport, ensure_aiokafka_TP
from faust.types import TP, ConsumerMessage
from mode.threads import WorkerThread

from fairlane.adapters.kafka_fetching import include_taken_partitions
from fairlane.adapters.kafka_foreign_records import record_of, tolerate_foreign_records
from fairlane.errors import Retry
from fairlane.ports import OwnershipLost, Position, Record, TopicPartition
from fairlane.streams.lease import Lease

FETCH_WAIT_MS = 100
"""How long the broker may hold a fetch without data. The driver has one fetch under way per broker, and a
partition that has just been assigned waits for the next one: with Faust's 1,500 ms, that long."""
GATHERING_FETCH_WAIT_MS = 50
"""The same where the broker gathers; so much later a record is heard of."""
GATHERED_BYTES = 1_048_576
"""What a broker that gathers answers with before that; more than comes in the time."""
POLL_S = 0.25
"""The longest that one poll waits, and so the longest that a stop waits for a poll."""

GATHER_S = 0.005
"""The pause after a poll that returned a few records. A poll with its event costs about 1 ms of CPU
however much it returns; a lone record waits for nothing, and neither does a backlog."""


class Polled(NamedTuple):
    """The value of an event: the records of one poll, and in which epoch of ownership it was made."""

    epoch: int
    records: Mapping[TopicPartition, Sequence[Record]]


class Feed(Protocol):
    """What the consumer asks: the engine's side."""

    @property
    def broker_gathers(self) -> bool:
        """Whether nobody waits for what the stage does, so that fewer and larger fetches are better."""
        ...

    @property
    def committed_only(self) -> bool:
        """Whether what an aborted transaction wrote is left out."""
        ...

    async def room(self, timeout_s: float) -> tuple[frozenset[TopicPartition], int]:
        """From which partitions to read, and how much; none if that does not change within the time."""
        ...

    def polled(self) -> None:
        """An event is on its way to the agent."""
        ...

    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """Where reading goes on."""
        ...

    async def commit(self) -> None:
        """Commit what is done."""
        ...

    async def suspended(self) -> None:
        """A rebalance begins: nothing is read until :meth:`flowing`. Commit what is done."""
        ...

    def flowing(self) -> None:
        """Faust has resumed after a rebalance: what is polled from now on is delivered."""
        ...


class _DaemonThread(WorkerThread):
    """A broker that hangs while the process stops must not keep the process."""

    def __init__(self, service: Any, **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def run(self) -> None:
        # What ends the thread has crashed the application before: the engine raises it.
        with contextlib.suppress(Exception):
            super().run()


class BatchConsumerThread(AIOKafkaConsumerThread):
    """The thread in which aiokafka runs, so that heartbeats go on while the stage computes."""

    Worker = _DaemonThread
    abstract = False

    @cached_property
    def lease(self) -> Lease:
        """Of the member that this thread keeps in the group."""
        return Lease(int(self.consumer.app.conf.broker_session_timeout * 1000))

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Faust prints the traceback to stderr; the engine raises it instead."""

    async def _wakeup_timer_in_thread(self) -> None:
        # As Mode does it, but for the coroutine: where the other loop has ended, it would never be awaited.
        self.last_wakeup_at = time.monotonic()
        await self.sleep(0)
        with contextlib.suppress(RuntimeError):
            self.parent_loop.call_soon_threadsafe(lambda: None)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        if transport.app.feed.broker_gathers:
            consumer._fetch_max_wait_ms, consumer._fetch_min_bytes = GATHERING_FETCH_WAIT_MS, GATHERED_BYTES
        if transport.app.feed.committed_only:
            # Faust sets it for its own transactions only.
            consumer._isolation_level = "read_committed"
        return consumer

    async def on_start(self) -> None:
        """Start the consumer."""
        await super().on_start()
        consumer = self._ensure_consumer()
        tolerate_foreign_records(consumer)
        include_taken_partitions(consumer)
        self.lease.listen(consumer._coordinator)

    async def poll(self, partitions: frozenset[TopicPartition], limit: int, timeout_s: float, epoch: int) -> Any:
        """Records by partition."""
        return await self.call_thread(self._poll, partitions, limit, timeout_s, epoch)

    async def _poll(self, partitions: frozenset[TopicPartition], limit: int, timeout_s: float, epoch: int) -> Any:
        consumer = self._ensure_consumer()
        # Faust never asks: a member that was fenced or may not read would wait for records for ever.
        consumer._coordinator.check_errors()
        with consumer._subscription.fetch_context():
            records = await consumer._fetcher.fetched_records(partitions, timeout=timeout_s, max_records=limit)
        if records and epoch != self.consumer.epoch:
            # Ownership changed while the poll waited: these are nobody's yet. Nothing else runs in this
            # thread between the read and the seek, so a seek of the new assignment is not undone.
            for tp, batch in records.items():
                if consumer._subscription.is_assigned(tp):
                    consumer.seek(tp, batch[0].offset)
            return {}
        return records

    async def touch(self) -> Mapping[TopicPartition, int]:
        """Show the group that this process lives though it may read nothing now; raises what the group refused.

        Returns the ends of the partitions' logs as of their last fetches.
        """
        if self._consumer is None or self._consumer._coordinator is None:
            return {}
        ends: Mapping[TopicPartition, int] = await self.call_thread(self._touch)
        return ends

    async def _touch(self) -> Mapping[TopicPartition, int]:
        consumer = self._ensure_consumer()
        consumer._coordinator.check_errors()
        with consumer._subscription.fetch_context():
            ends = {TopicPartition(*tp): consumer.highwater(tp) for tp in consumer.assignment()}
        return {tp: end for tp, end in ends.items() if end is not None}

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> Mapping[TopicPartition, Position]:
        """Commit with metadata those of the partitions that are owned now, and return them.

        Raises Retry or :class:`OwnershipLost`.
        """
        committed: Mapping[TopicPartition, Position] = await self.call_thread(self._commit_positions, positions)
        return committed

    async def _commit_positions(
        self, positions: Mapping[TopicPartition, Position]
    ) -> Mapping[TopicPartition, Position]:
        consumer = self._ensure_consumer()
        # Between a rebalance and the engine's answer to it, some of them may be another member's already.
        owned = {tp: position for tp, position in positions.items() if tp in consumer.assignment()}
        offsets = {ensure_aiokafka_TP(tp): OffsetAndMetadata(p.offset, p.metadata) for tp, p in owned.items()}
        try:
            if offsets:
                await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as failure:
            raise OwnershipLost(f"the group moved on: {failure!r}") from failure
        except KafkaError as failure:
            raise Retry(f"Kafka did not take the commit: {failure!r}") from failure
        return owned


class BatchConsumer(Consumer):
    """Faust's consumer with one event per poll."""

    _thread: BatchConsumerThread
    feed: Feed

    def __init__(self, transport: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(transport, *args, **kwargs)
        self.feed = transport.app.feed
        self.epoch = 0
        self.rounds = 0
        self.ends: Mapping[TopicPartition, int] = {}
        self._gather_s = 0.0

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """One event with all that a poll returned, once the stage has taken what came before."""
        self.rounds += 1
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        await asyncio.sleep(self._gather_s)
        self._gather_s = 0.0
        partitions, limit = await self.feed.room(POLL_S)
        epoch = self.epoch
        if not partitions or self.should_stop or not self.flow_active:
            return
        polled = await self._thread.poll(partitions, limit, POLL_S, epoch)
        if not polled or self.should_stop or not self.flow_active or epoch != self.epoch:
            return
        if 1 < sum(map(len, polled.values())) < limit // 2:
            self._gather_s = GATHER_S
        self.feed.polled()
        yield self._event(
            Polled(epoch, {TopicPartition(*tp): [record_of(each) for each in batch] for tp, batch in polled.items()})
        )

    def _event(self, polled: Polled) -> tuple[TP, ConsumerMessage]:
        last = list(polled.records.values())[-1][-1]
        tp = TP(last.topic, last.partition)
        # It stands for records of several partitions: Faust keeps no offsets of it (acks are off).
        return tp, ConsumerMessage(
            last.topic, last.partition, last.offset, last.timestamp_ms / 1000, 0, None, None, polled, None,
            tp=tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow and commit. What of the partitions is lost shows when new ones are assigned."""
        self.epoch += 1
        await super().on_partitions_revoked(revoked)
        await self.feed.suspended()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Nothing is read before the engine has restored the positions (see ``faust_app``)."""
        self.epoch += 1
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Faust's last step before records flow: read on where the restored positions say."""
        offsets = self.feed.next_offsets()
        if offsets:
            await self.seek_wait(offsets)
        # With its own read offsets Faust would drop, or note gaps for, what we seek to on purpose.
        self._read_offset.clear()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Faust's commit timer, agents' errors and its shutdown end here: only finished work is committed."""
        self.ends = await self._thread.touch()
        await self.feed.commit()
        return True

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """The same as :meth:`commit`."""
        return await self.commit(topics, start_new_transaction)

    def _new_offset(self, tp: TP) -> int | None:
        # Faust's rule skips an unfinished head. No path leads here; if one appears it commits nothing.
        return None

    async def verify_all_partitions_active(self) -> None:
        """Faust's livelock warnings read its acks, which there are none of; the engine has metrics."""

    async def commit_positions(self, positions: Mapping[TopicPartition, Position]) -> Mapping[TopicPartition, Position]:
        """See :meth:`BatchConsumerThread.commit_positions`."""
        return await self._thread.commit_positions(positions)

    def lease_ok(self) -> bool:
        """Whether the group heard from this member recently enough."""
        return self._thread.lease.ok()

    def membership(self) -> tuple[str, int]:
        """Under which name, and in which generation of the group, the partitions are owned."""
        coordinator = self._thread._ensure_consumer()._coordinator
        return coordinator.member_id, coordinator.generation


class BatchTransport(Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = BatchConsumer
