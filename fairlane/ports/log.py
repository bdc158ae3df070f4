"""The log: what is written to and read from topics, and who owns which part of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from fairlane.schemas.headers import Headers


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Fault(StrEnum):
    """Why a record stands in the log that cannot be read: a stage answers it like any bad value."""

    TOO_LARGE = "too_large"
    """Its batch holds, unpacked, more than a reader takes in."""
    DAMAGED = "damaged"
    """Its batch is not what the named codec writes."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record read from the log; ``timestamp_ms`` is the record's own, never the reader's clock.

    One with a ``fault`` has no key, value or headers: they could not be read.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    fault: Fault | None = None

    @property
    def tp(self) -> TopicPartition:
        """Where it stands."""
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to write. ``partition`` None means by :func:`partition_for` of the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A committed position: the next offset to read, and what the committer noted beside it."""

    offset: int
    metadata: str = ""


class Publisher(Protocol):
    """Writes to the log with ``acks=all``, idempotently, in order per partition."""

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        """Queue a record at once and return its acknowledgement.

        Records of one partition are appended in the order of the calls. The future resolves to the
        record as appended, or raises :class:`~fairlane.errors.Retry` when the broker did not
        acknowledge in time (the record may be in the log or not) or the buffer is full,
        :class:`~fairlane.errors.Poison` when it can never be (too large), or
        :class:`~fairlane.errors.Fatal` when this process may not write at all.
        """
        ...

    async def partitions(self, topic: str) -> int:
        """Number of partitions; raises Retry while the broker does not know the topic."""
        ...

    async def flush(self) -> None:
        """Wait until everything queued is acknowledged or failed."""
        ...


class LogReader(Protocol):
    """Reads any range of the log without a consumer group.

    Every method raises :class:`~fairlane.errors.Retry` when the brokers do not answer for long or do
    not know the topic.
    """

    async def ends(self, topic: str) -> Mapping[int, int]:
        """For each partition the offset after its last record."""
        ...

    async def starts(self, topic: str) -> Mapping[int, int]:
        """For each partition the first offset that is still kept."""
        ...

    async def offsets_at(self, topic: str, timestamp_ms: int) -> Mapping[int, int]:
        """For each partition the first offset whose record is not older; the end if there is none."""
        ...

    def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield records from ``starts`` up to ``ends`` (exclusive), then stop; without ``ends``, follow
        for ever. Yields an empty sequence about twice a second while nothing arrives, so that a
        follower can notice time. Partitions not in ``starts`` are not read. With ``committed_only`` what was aborted
        is left out, and a range ends at the first transaction that is still open.
        """
        ...

    async def group_positions(self, group: str, topic: str) -> Mapping[int, Position]:
        """The committed positions of a consumer group, with metadata; partitions without are absent."""
        ...


class Bounds(NamedTuple):
    """Offsets of a partition: of the first record that is kept, after the last one that can be delivered by now, and
    after the last one there is. The latter two differ while a transaction is open.
    """

    start: int
    end: int
    written: int


class RebalanceListener(Protocol):
    """Told by a :class:`LogConsumer` about ownership, inside :meth:`LogConsumer.poll` and in its task."""

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """All partitions owned from now on (not only new ones; see :meth:`LogConsumer.kept`)."""
        ...

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """All partitions owned until now; some of them may come back at once. The rebalance waits for this."""
        ...


class LogConsumer(Protocol):
    """A member of a consumer group."""

    async def start(self, listener: RebalanceListener) -> None:
        """Ask to join; partitions come with a later poll. Raises Retry if the broker cannot be reached."""
        ...

    async def poll(self, max_records: int, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """Records in order per partition; blocks up to ``timeout_ms``. Must be called often to stay a member:
        with ``max_records`` 0 it only follows the group.

        The listener is awaited in here and nowhere else, so everything about ownership happens in
        the caller's task. Raises Retry when the brokers have not answered for long, Fatal when the
        member cannot go on (not authorised, another process uses its instance name).
        """
        ...

    def kept(self) -> frozenset[TopicPartition]:
        """Of the partitions owned now, those that stayed with this member through the last rebalance: no
        other member owned them in between, so what is in flight of them is still this member's.
        """
        ...

    async def bounds(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Where the log of each begins and ends. Raises Retry."""
        ...

    def end_seen(self, partition: TopicPartition) -> int | None:
        """The log end as of the last fetch of a partition, without asking; None before the first."""
        ...

    async def committed(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Position]:
        """The group's positions with metadata; partitions never committed are absent. Raises Retry."""
        ...

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Commit. Raises Retry if it may be tried again, or :class:`OwnershipLost` if the member is out.

        A rebalance may overtake it: then OwnershipLost is about the generation in which it was asked,
        and what the listener has heard since says what is owned.
        """
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next poll reads from here."""
        ...

    def pause(self, partitions: frozenset[TopicPartition]) -> None:
        """Leave these out of polls until resumed; what is already fetched is kept. Assignment resumes all."""
        ...

    def resume(self, partitions: frozenset[TopicPartition]) -> None:
        """Undo :meth:`pause`; wakes a poll that is waiting."""
        ...

    def lease_ok(self) -> bool:
        """Whether the coordinator heard from this member recently enough that no other member can own its
        partitions: time since the last successful heartbeat, on the monotonic clock, is below the
        session timeout less a margin. False after the process was stopped for longer, and during a
        rebalance.
        """
        ...

    async def stop(self) -> None:
        """Close. A member with a stable instance name stays in the group until its session ends, so that its
        successor finds its partitions; any other leaves at once.
        """
        ...


class OwnershipLost(Exception):
    """The group gave this member's partitions to another; nothing of them may be written any more."""
