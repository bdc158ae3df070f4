"""A batch of records on its way to one partition, and what its end means to those who wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from aiokafka import errors
from aiokafka.producer.message_accumulator import MessageBatch

from fairlane.errors import FairlaneError, Fatal, Poison, Retry
from fairlane.ports import Outgoing, Record

_POISON = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidTopicError,
    errors.InvalidTimestampError,
    errors.PolicyViolationError,
)
_FATAL = (
    errors.ProducerFenced,
    errors.InvalidProducerEpoch,
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.AuthenticationMethodNotSupported,
)
_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)


class Entry(NamedTuple):
    """A record, who waits for it, and how many bytes it counts for."""

    record: Outgoing
    future: asyncio.Future[Record]
    size: int


class PublishBatch(MessageBatch):
    """aiokafka's batch, resolving our futures itself: that saves a future and a callback per record."""

    def __init__(
        self,
        tp: Any,
        builder: Any,
        on_settled: Callable[[PublishBatch, FairlaneError | None], None],
        on_too_large: Callable[[PublishBatch], None],
        drop: Callable[[PublishBatch], None],
    ) -> None:
        # No time to live: aiokafka ignores it for an idempotent producer, except that it would drop a
        # batch without a leader after its sequence numbers were taken. The publisher watches the age.
        super().__init__(tp, builder, float("inf"), 0)
        self.created = time.monotonic()
        self.entries: list[Entry] = []
        self.timestamps: list[int] = []
        self.size = 0
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_settled = on_settled
        self._on_too_large = on_too_large
        self._drop = drop

    def add(self, entry: Entry) -> bool:
        """Append a record; False where the batch is full or already under way."""
        record = entry.record
        metadata = self._builder.append(
            timestamp=None, key=record.key, value=record.value, headers=list(record.headers)
        )
        if metadata is None:
            return False
        self.entries.append(entry)
        self.timestamps.append(metadata.timestamp)
        self.size += entry.size
        return True

    def done(self, base_offset: int, timestamp: int | None = None, log_start_offset: int | None = None) -> None:
        """The broker has it. aiokafka calls this."""
        self._close()
        if base_offset < 0:
            # The broker recognised a repeated batch so old that it no longer knows its offset.
            self._settle(Retry("the broker has the records but not their offsets; send them again"))
            return
        topic, partition = self._tp.topic, self._tp.partition
        own_time = timestamp is None or timestamp < 0
        offset = base_offset
        for (record, future, _), created_ms in zip(self.entries, self.timestamps, strict=True):
            if not future.done():
                time_ms = created_ms if own_time or timestamp is None else timestamp
                future.set_result(Record(topic, partition, offset, time_ms, record.key, record.value, record.headers))
            offset += 1
        self._settle(None)

    def failure(self, exception: BaseException) -> None:
        """It will not be sent again. aiokafka calls this."""
        self._close()
        if isinstance(exception, _TOO_LARGE) and len(self.entries) > 1:
            self._on_too_large(self)
            return
        self.give_up(described(exception, self._tp.topic))

    def done_noack(self) -> None:
        """An empty batch was dropped. aiokafka calls this."""
        self._close()
        self._settle(None)

    def reset_drain(self) -> None:
        """It is back in the queue to be sent again. aiokafka calls this."""
        super().reset_drain()
        if self.settled.done():
            # Whoever waited has been told and may have looked into the log: it must not come after that.
            self._drop(self)

    def give_up(self, failure: FairlaneError) -> None:
        """Fail everyone who still waits. The broker may have the records, or get those on the wire, but no others."""
        for entry in self.entries:
            if not entry.future.done():
                entry.future.set_exception(_again(failure))
        self._settle(failure)

    def _close(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def _settle(self, failure: FairlaneError | None) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
            self._on_settled(self, failure)


def described(exception: BaseException, topic: str) -> FairlaneError:
    """What a client error means to the runtime."""
    name = type(exception).__name__
    if isinstance(exception, _TOO_LARGE):
        return Poison(f"topic {topic}: the broker refuses a record of this size (max.message.bytes)")
    if isinstance(exception, _POISON):
        return Poison(f"topic {topic}: the broker refuses the record ({name})")
    if isinstance(exception, _FATAL):
        return Fatal(f"topic {topic}: this process may not write ({name}); check its credentials and access rules")
    return Retry(f"topic {topic}: not acknowledged ({name})")


def _again(failure: FairlaneError) -> FairlaneError:
    """A copy for each future: one exception object raised in many places collects all their tracebacks."""
    if isinstance(failure, Retry):
        return Retry(str(failure), after=failure.after)
    return type(failure)(str(failure))
