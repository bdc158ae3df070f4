"""The :class:`~fairlane.ports.Publisher` on Kafka: an idempotent producer with ``acks=all``.

``AIOKafkaProducer.send`` is a coroutine that may wait for room, so calling it for each record costs
a task each, and order per partition would rest on how tasks are scheduled. This class appends to
aiokafka's accumulator itself, in the call. It touches internals of aiokafka 0.14.0, which is pinned:
the accumulator's queues, the batch class, the producer id and the brokers that are busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.transaction_manager import NO_PRODUCER_EPOCH, NO_PRODUCER_ID, PidAndEpoch
from aiokafka.structs import TopicPartition
from aiokafka.util import create_future

from fairlane.adapters.kafka_batch import Entry, PublishBatch, described
from fairlane.adapters.kafka_sending import gather_between_requests
from fairlane.errors import FairlaneError, Fatal, Poison, Retry
from fairlane.ports import Outgoing, Record
from fairlane.schemas.topics import partition_for
from fairlane.telemetry import NO_METRICS, Metrics, get_logger

_log = get_logger(__name__)

BATCH_BYTES = 131_072
"""Largest batch of one partition. Consumers fetch at least twice this from a partition."""
RECORD_OVERHEAD = 70
"""Bytes a record and its share of a batch add to its own; the same estimate as aiokafka's."""


class KafkaPublisher:
    """See :class:`~fairlane.ports.Publisher`. Call :meth:`start` first and :meth:`stop` last.

    ``delivery_timeout_ms`` bounds how long an acknowledgement may take; ``buffer_bytes`` what may be
    queued, beyond which sending fails with Retry; ``max_record_bytes`` one record (else Poison). With ``gather_ms``
    requests begin so far apart while each holds several records; a lone record is sent at once.
    """

    def __init__(
        self,
        bootstrap: str,
        client_id: str,
        *,
        metrics: Metrics = NO_METRICS,
        delivery_timeout_ms: int = 30_000,
        metadata_timeout_ms: int = 10_000,
        buffer_bytes: int = 64 * 1_048_576,
        max_record_bytes: int = 4 * 1_048_576 - 1_024,
        gather_ms: int = 0,
    ) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._metrics = metrics
        self._delivery_timeout_s = delivery_timeout_ms / 1000
        self._metadata_timeout_s = metadata_timeout_ms / 1000
        self._buffer_bytes = buffer_bytes
        self._max_record_bytes = max_record_bytes
        self._gather_s = gather_ms / 1000
        self._producer: Any = None
        self._stopping = False
        self._counts: dict[str, int] = {}
        self._learning: dict[str, asyncio.Task[int]] = {}
        self._waiting: dict[str, list[Entry]] = {}
        self._live: set[PublishBatch] = set()
        self._buffered = 0
        self._watch: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by start

    async def start(self) -> None:
        """Connect and obtain a producer id. Raises Retry if the brokers cannot be reached."""
        self._loop = asyncio.get_running_loop()
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            request_timeout_ms=20_000,
            metadata_max_age_ms=60_000,
        )
        try:
            async with asyncio.timeout(self._delivery_timeout_s):
                await producer.start()
        except (KafkaError, OSError, TimeoutError) as failure:
            await _quietly(producer.stop())
            raise Retry(f"Kafka at {self._bootstrap} does not answer: {failure}", after=1.0) from failure
        except asyncio.CancelledError:
            await _quietly(producer.stop())
            raise
        if self._gather_s:
            gather_between_requests(producer, self._gather_s)
        self._producer = producer
        self._watch = self._loop.call_later(1.0, self._expire)

    async def stop(self) -> None:
        """Wait for what is queued, at most the delivery timeout, and close. What is left fails with Retry."""
        producer = self._producer
        if producer is None or self._stopping:
            return
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._delivery_timeout_s):
                await self._flush()
        self._producer = None
        if self._watch is not None:
            self._watch.cancel()
        for task in self._learning.values():
            task.cancel()
        for batch in list(self._live):
            batch.give_up(Retry(f"topic {batch.tp.topic}: the publisher stopped before the acknowledgement"))
        # Nothing waits any more, so a sender that cannot reach a broker need not be waited for either.
        producer._message_accumulator._batches.clear()
        try:
            async with asyncio.timeout(5.0):
                await producer.stop()
        except TimeoutError:
            await _quietly(producer._sender.close())
            for batch in list(producer._message_accumulator._pending_batches):
                batch.done_noack()
            await _quietly(producer.client.close())

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        """Queue a record; see the port."""
        future: asyncio.Future[Record] = self._loop.create_future()
        key, value = record.key, record.value
        size = RECORD_OVERHEAD + (len(key) if key else 0) + (len(value) if value else 0)
        for name, content in record.headers:
            size += len(name) + len(content) + 4
        if size > self._max_record_bytes:
            future.set_exception(
                Poison(f"topic {record.topic}: a record of {size} bytes is above the limit of {self._max_record_bytes}")
            )
        elif self._producer is None or self._stopping:
            future.set_exception(Fatal("the publisher is not running"))
        elif self._buffered + size > self._buffer_bytes:
            self._metrics.inc("publisher_records_total", topic=record.topic, outcome="full")
            future.set_exception(
                Retry(f"topic {record.topic}: {self._buffered} bytes wait for acknowledgement, no room for more")
            )
        else:
            self._buffered += size
            entry = Entry(record, future, size)
            count = self._counts.get(record.topic)
            if count is None:
                self._wait_for_topic(entry)
            else:
                self._append(entry, count)
        return future

    async def partitions(self, topic: str) -> int:
        """Number of partitions; cached, because a count that grows would move keys."""
        count = self._counts.get(topic)
        return count if count is not None else await asyncio.shield(self._learn(topic))

    async def flush(self) -> None:
        """Wait until everything queued so far is acknowledged or failed."""
        await self._flush()

    async def _flush(self) -> None:
        if self._learning:
            await asyncio.wait(list(self._learning.values()))
        if waiting := [batch.settled for batch in self._live]:
            await asyncio.wait(waiting)

    # --- appending ----------------------------------------------------------------------------

    def _append(self, entry: Entry, count: int) -> None:
        record = entry.record
        partition = record.partition if record.partition is not None else partition_for(record.key or b"", count)
        accumulator = self._producer._message_accumulator
        if accumulator._exception is not None:
            self._refuse(entry, Fatal("the producer failed and cannot be used again: restart the process"))
        elif not 0 <= partition < count:
            self._refuse(entry, Poison(f"topic {record.topic} has {count} partitions, there is no {partition}"))
        elif record.key is None and record.value is None:
            self._refuse(entry, Poison(f"topic {record.topic}: a record needs a key or a value"))
        else:
            tp = TopicPartition(record.topic, partition)
            queue = accumulator._batches.get(tp)
            # aiokafka would wait here for a full batch to leave; its queue takes further batches as well.
            if not queue or not isinstance(queue[-1], PublishBatch) or not queue[-1].add(entry):
                self._enqueue(self._new_batch(tp, entry))

    def _new_batch(self, tp: TopicPartition, entry: Entry) -> PublishBatch:
        builder = BatchBuilder(BATCH_BYTES, 0)
        batch = PublishBatch(tp, builder, self._on_settled, self._on_too_large, self._drop)
        batch.add(entry)
        self._live.add(batch)
        return batch

    def _enqueue(self, batch: PublishBatch) -> None:
        accumulator = self._producer._message_accumulator
        accumulator._batches[batch.tp].append(batch)
        # The sender has one request under way to a broker and looks for more when that ends. Woken before, it would
        # go through all that waits, send nothing and begin to wait again.
        busy = accumulator._cluster.leader_for_partition(batch.tp) in self._producer._sender._in_flight
        if not busy and not accumulator._waiter_future.done():
            accumulator._waiter_future.set_result(None)

    def _refuse(self, entry: Entry, failure: FairlaneError) -> None:
        self._buffered -= entry.size
        if not entry.future.done():
            entry.future.set_exception(failure)

    # --- topics not known yet -------------------------------------------------------------------

    def _wait_for_topic(self, entry: Entry) -> None:
        topic = entry.record.topic
        self._waiting.setdefault(topic, []).append(entry)
        _ = self._learn(topic)

    def _learn(self, topic: str) -> asyncio.Task[int]:
        task = self._learning.get(topic)
        if task is None:
            task = self._learning[topic] = self._loop.create_task(self._learn_count(topic))
            task.add_done_callback(lambda finished: self._learned(topic, finished))
        return task

    async def _learn_count(self, topic: str) -> int:
        try:
            async with asyncio.timeout(self._metadata_timeout_s):
                # A refresh before the first record tells aiokafka of all topics and makes it follow none. From the
                # first one added on it asks for the added ones only, and the others have no leader any more.
                await self._producer.client.add_topic(topic)
                return len(await self._producer.client._wait_on_metadata(topic))
        except TimeoutError:
            raise Retry(f"topic {topic}: the broker does not know it; create it with `fairlane topics`") from None
        except KafkaError as failure:
            raise described(failure, topic) from failure

    def _learned(self, topic: str, task: asyncio.Task[int]) -> None:
        del self._learning[topic]
        entries = self._waiting.pop(topic, [])
        failure = Retry("the publisher stopped") if task.cancelled() else task.exception()
        if failure is None and self._producer is not None:
            self._counts[topic] = task.result()
            for entry in entries:
                try:
                    self._append(entry, task.result())
                except (TypeError, ValueError) as wrong:  # send() would have raised it to its caller
                    self._refuse(entry, Poison(f"topic {topic}: the record cannot be encoded: {wrong}"))
            return
        for entry in entries:
            known = failure if isinstance(failure, FairlaneError) else Retry(f"topic {topic}: {failure}")
            self._refuse(entry, known)

    # --- what became of batches -------------------------------------------------------------------

    def _on_settled(self, batch: PublishBatch, failure: FairlaneError | None) -> None:
        self._live.discard(batch)
        self._buffered -= batch.size
        topic = batch.tp.topic
        outcome = "ok" if failure is None else type(failure).__name__.lower()
        self._metrics.inc("publisher_records_total", float(len(batch.entries)), topic=topic, outcome=outcome)
        self._metrics.observe("publisher_ack_seconds", time.monotonic() - batch.created, topic=topic)
        if failure is not None:
            _log.warning("batch_not_acknowledged", topic=topic, partition=batch.tp.partition, reason=str(failure))
            # Later: aiokafka may be between taking sequence numbers for two batches.
            self._loop.call_soon(self._renew_producer_id)

    def _on_too_large(self, batch: PublishBatch) -> None:
        """The topic takes smaller batches than ours: send its records one by one, so that only a culprit fails."""
        self._live.discard(batch)
        batch.settled.set_result(None)
        if self._producer is None:
            batch.give_up(Retry("the publisher stopped"))
            return
        singles = [self._new_batch(batch.tp, entry) for entry in batch.entries]
        for single in singles:
            single._builder.close()
        self._producer._message_accumulator._batches[batch.tp].extendleft(reversed(singles))
        self._loop.call_soon(self._renew_producer_id)

    def _renew_producer_id(self) -> None:
        """A batch that failed leaves a hole in its partition's sequence numbers, and the broker refuses all
        that follow. A new producer id starts every partition at zero; batches already under way keep
        the old one, and a partition has only one of them.
        """
        if self._producer is None:
            return
        transactions = self._producer._txn_manager
        if transactions.has_pid():
            transactions._pid_and_epoch = PidAndEpoch(NO_PRODUCER_ID, NO_PRODUCER_EPOCH)
            transactions._pid_waiter = create_future()
            transactions._sequence_numbers.clear()

    def _drop(self, batch: PublishBatch) -> None:
        """Do not send it, or not again."""
        if self._producer is None:
            return
        batches = self._producer._message_accumulator._batches
        queue = batches.get(batch.tp)
        if queue is not None and batch in queue:
            queue.remove(batch)
            if not queue:
                del batches[batch.tp]

    def _expire(self) -> None:
        """Once a second: aiokafka repeats an idempotent batch for ever, our callers want an answer."""
        if self._producer is None:
            return
        self._watch = self._loop.call_later(1.0, self._expire)
        self._metrics.set("publisher_buffered_bytes", float(self._buffered))
        waiter = self._producer._message_accumulator._waiter_future
        if self._live and not waiter.done():
            # A batch whose broker was busy may have another leader by now, which has nothing under way.
            waiter.set_result(None)
        limit = time.monotonic() - self._delivery_timeout_s
        for batch in [batch for batch in self._live if batch.created < limit]:
            self._drop(batch)
            batch.give_up(
                Retry(f"topic {batch.tp.topic}: no acknowledgement within {self._delivery_timeout_s:g} s", after=1.0)
            )


async def _quietly(closing: Coroutine[Any, Any, Any]) -> None:
    """Close what is already broken; the error that made us close is the one to report."""
    try:
        await closing
    except (KafkaError, OSError) as failure:
        _log.debug("close_failed", reason=str(failure))
