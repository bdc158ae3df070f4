"""The :class:`~fairlane.ports.LogConsumer` on Kafka, by aiokafka.

It touches internals of aiokafka 0.14.0, which is pinned: the fetch buffer (to take records fairly from
chosen partitions and to wake a wait; ``pause`` would throw prefetched records away, and ``getmany``
empties one partition before the next), the coordinator's requests (to know when it last heard from
us) and its generation (to know whether we stayed the owner through a rebalance).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, errors, structs
from aiokafka.consumer.fetcher import FetchResult

from fairlane.adapters.kafka_closing import stop_consumer
from fairlane.adapters.kafka_fetching import FetchGate, include_taken_partitions, whatever_was_decided
from fairlane.adapters.kafka_foreign_records import record_of, tolerate_foreign_records
from fairlane.errors import Fatal, Retry
from fairlane.ports import Bounds, OwnershipLost, Position, RebalanceListener, Record, TopicPartition
from fairlane.streams.assignor import PolicyAssignor, sticky_assignor
from fairlane.streams.lease import Lease
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

FETCH_WAIT_MS = 250
PARTITION_FETCH_BYTES = 262_144
FETCH_BYTES = 8 * 1_048_576
ANSWER_TIMEOUT_S = 10.0
STALL_S = 60.0
"""Silence of the brokers after which polls raise Retry. aiokafka has been seen to stay silent for ever
after a broker's restart (its issue 1154); a new process helps."""

_FATAL = (
    errors.GroupAuthorizationFailedError,
    errors.TopicAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.AuthenticationFailedError,
    errors.SaslAuthenticationFailed,
    errors.InconsistentGroupProtocolError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidGroupIdError,
    errors.OffsetMetadataTooLargeError,
    errors.InvalidCommitOffsetSizeError,
)


class KafkaConsumer:
    """See :class:`~fairlane.ports.LogConsumer`. ``pattern`` is matched at the start of topic names.

    ``fetch_min_bytes`` lets the broker gather so much, or for :data:`FETCH_WAIT_MS`, before it answers a fetch.
    ``gather_ms`` is a pause between fetches under load: see :meth:`~fairlane.adapters.kafka_fetching.FetchGate.gather`.
    With ``committed_only`` what was written in a transaction comes once that has ended, and never if it was aborted.
    With an ``instance`` name (static membership) a process that comes back within the session timeout
    has its partitions at once, without a rebalance.
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topics: Iterable[str] = (),
        *,
        pattern: str | None = None,
        instance: str = "",
        session_timeout_ms: int = 10_000,
        assignor: PolicyAssignor | None = None,
        partition_fetch_bytes: int = PARTITION_FETCH_BYTES,
        fetch_min_bytes: int = 1,
        gather_ms: int = 0,
        committed_only: bool = False,
    ) -> None:
        self._isolation = "read_committed" if committed_only else "read_uncommitted"
        self._gather_s = gather_ms / 1000
        self._gate: FetchGate | None = None
        self._fetch_min_bytes = fetch_min_bytes
        self._partition_fetch_bytes = partition_fetch_bytes
        self._bootstrap = bootstrap
        self._group = group
        self._topics = sorted(topics)
        self._pattern = pattern
        self._instance = instance
        self._session_timeout_ms = session_timeout_ms
        self._assignor = assignor or sticky_assignor()
        self._consumer: Any = None
        self._listener: RebalanceListener | None = None
        self._closing = False
        # Ownership. `_coming` is what the group gave us and the listener does not know yet.
        self._owned: frozenset[TopicPartition] | None = None
        self._coming: frozenset[TopicPartition] | None = None
        self._kept: frozenset[TopicPartition] = frozenset()
        self._unbroken: frozenset[TopicPartition] = frozenset()
        self._membership: tuple[str, int] = ("", -1)
        self._revoking: asyncio.Future[None] | None = None
        self._paused: frozenset[TopicPartition] = frozenset()
        self._waiter: asyncio.Future[None] | None = None
        self._turn = 0
        # Signs of life, on the monotonic clock.
        self._lease = Lease(session_timeout_ms)
        self._settled = False
        self._checked = self._fetched = self._started = 0.0
        self._fetch_mark = 0

    async def start(self, listener: RebalanceListener) -> None:
        """Ask to join. Raises Retry if the brokers cannot be reached."""
        self._listener = listener
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id=self._instance or self._group,
            group_id=self._group,
            group_instance_id=self._instance or None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=self._session_timeout_ms,
            # A member hears of a rebalance by its next heartbeat, and everybody waits for the last one.
            heartbeat_interval_ms=min(1_000, self._session_timeout_ms // 6),
            # A lease ends with the session, so nobody may be thrown out of a rebalance sooner than that.
            rebalance_timeout_ms=max(self._session_timeout_ms, 15_000),
            partition_assignment_strategy=(self._assignor,),
            fetch_max_wait_ms=FETCH_WAIT_MS,
            fetch_min_bytes=self._fetch_min_bytes,
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=self._partition_fetch_bytes,
            isolation_level=self._isolation,
            metadata_max_age_ms=10_000 if self._pattern else 60_000,
            check_crcs=False,  # TCP and the broker check already; saves a pass over every byte
        )
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await consumer.start()
        except (errors.KafkaError, OSError, TimeoutError) as failure:
            await stop_consumer(consumer)
            raise Retry(f"Kafka at {self._bootstrap} does not answer: {failure}", after=1.0) from failure
        except asyncio.CancelledError:
            await stop_consumer(consumer)
            raise
        include_taken_partitions(consumer)
        self._gate = FetchGate(consumer) if self._gather_s else None
        tolerate_foreign_records(consumer)
        self._lease.listen(consumer._coordinator)
        self._consumer = consumer
        self._started = self._fetched = time.monotonic()
        # Only now, so that nothing of the group happens before we see it.
        callbacks = _Callbacks(self)
        if self._pattern:
            consumer.subscribe(pattern=self._pattern, listener=callbacks)
        else:
            consumer.subscribe(topics=self._topics, listener=callbacks)

    async def poll(self, max_records: int, timeout_ms: int) -> Mapping[TopicPartition, Sequence[Record]]:
        """Records in order per partition; runs the listener. See the port."""
        deadline = time.monotonic() + timeout_ms / 1000
        consumer = self._consumer
        with self._described(), consumer._subscription.fetch_context():
            while True:
                consumer._coordinator.check_errors()
                await self._follow_group()
                drained = self._drain(max_records)
                left = deadline - time.monotonic()
                if drained or left <= 0:
                    if self._gate is not None:
                        self._gate.gather(self._gather_s, sum(map(len, drained.values())), max_records)
                    self._check_life()
                    return drained
                if self._revoking is None and self._coming is None:
                    await self._wait(left)

    def kept(self) -> frozenset[TopicPartition]:
        """What stayed with this member through the last rebalance."""
        return self._kept

    async def bounds(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """Where the log of each begins and ends."""
        if not partitions:
            return {}
        native = [structs.TopicPartition(*tp) for tp in partitions]
        with self._described():
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                starts = await self._consumer.beginning_offsets(native)
                ends = await self._consumer.end_offsets(native)
                written = await whatever_was_decided(self._consumer._fetcher).end_offsets(
                    native, ANSWER_TIMEOUT_S * 1000
                )
        return {tp: Bounds(starts[tp], ends[tp], written[tp]) for tp in partitions}

    def end_seen(self, partition: TopicPartition) -> int | None:
        """The log end as of the last fetch of a partition."""
        state = self._state(partition)
        highwater: int | None = state.highwater if state is not None else None
        return highwater

    async def committed(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Position]:
        """The group's positions with metadata."""
        with self._described():
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await self._consumer._coordinator.fetch_committed_offsets(
                    [structs.TopicPartition(*tp) for tp in partitions]
                )
        return {TopicPartition(*tp): Position(at.offset, at.metadata or "") for tp, at in found.items()}

    async def commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        """Commit; raises OwnershipLost for a member the group has thrown out, Retry otherwise."""
        coordinator = self._consumer._coordinator
        if (coordinator.member_id, coordinator.generation) != self._membership:
            # aiokafka would send it as no member of no generation, which a group without members accepts.
            raise OwnershipLost(f"group {self._group}: this process is no longer a member")
        offsets = {structs.TopicPartition(*tp): (at.offset, at.metadata) for tp, at in positions.items()}
        try:
            with self._described():
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._consumer.commit(offsets)
        except errors.CommitFailedError as failure:
            if isinstance(failure.__cause__, errors.RebalanceInProgressError):
                raise Retry(f"group {self._group} rebalances", after=0.1) from failure
            raise OwnershipLost(f"group {self._group}: this process is no longer a member") from failure
        except errors.IllegalStateError as failure:
            raise OwnershipLost(f"group {self._group}: {failure}") from failure

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next poll reads from here."""
        state = self._state(partition)
        if state is not None and not (state.has_valid_position and state.position == offset):
            self._consumer.seek(structs.TopicPartition(*partition), offset)

    def pause(self, partitions: frozenset[TopicPartition]) -> None:
        """Leave these out of polls."""
        self._paused |= partitions

    def resume(self, partitions: frozenset[TopicPartition]) -> None:
        """Undo :meth:`pause`."""
        self._paused -= partitions
        self._wake()

    def lease_ok(self) -> bool:
        """Whether no other member can own this one's partitions."""
        return self._settled and self._owned is not None and self._lease.ok()

    async def stop(self) -> None:
        """Close; commits nothing."""
        consumer, self._closing = self._consumer, True
        if consumer is None:
            return
        self._owned = None
        self._let_rebalance_go_on()
        self._wake()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await stop_consumer(consumer)
        except (errors.KafkaError, OSError, TimeoutError) as failure:
            _log.warning("consumer_not_closed", group=self._group, reason=repr(failure))

    # --- ownership --------------------------------------------------------------------------------

    async def on_revoked(self) -> None:
        """aiokafka's coordinator is about to join the next generation and waits for us."""
        if self._closing or self._owned is None:
            self._coming = None  # never told, so nothing to take back
            return
        self._revoking = asyncio.get_running_loop().create_future()
        self._wake()
        await self._revoking

    def on_assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """aiokafka's coordinator joined. The listener hears it in poll: heartbeats begin only after this returns."""
        coordinator = self._consumer._coordinator
        member, generation = self._membership
        self._membership = (coordinator.member_id, coordinator.generation)
        # Exactly the next generation: nobody else can have owned anything of ours in between.
        unbroken = self._membership == (member, generation + 1)
        self._unbroken = self._unbroken & partitions if unbroken else frozenset()
        self._coming = partitions
        self._wake()

    async def _follow_group(self) -> None:
        listener = self._listener
        assert listener is not None
        if self._revoking is not None and self._owned is not None:
            owned, self._owned = self._owned, None
            self._unbroken = owned
            try:
                await listener.revoked(owned)
            finally:
                self._let_rebalance_go_on()
        if self._coming is not None:
            self._owned, self._coming, self._settled = self._coming, None, False
            self._kept = self._unbroken
            self._paused = frozenset()
            self._fetched = time.monotonic()
            await listener.assigned(self._owned)
            # Only now: until it has let go, the listener works on what may be another's.
            self._settled = True

    def _let_rebalance_go_on(self) -> None:
        revoking, self._revoking = self._revoking, None
        if revoking is not None and not revoking.done():
            revoking.set_result(None)

    # --- records ----------------------------------------------------------------------------------

    def _drain(self, limit: int) -> dict[TopicPartition, Sequence[Record]]:
        drained: dict[TopicPartition, list[Record]] = {}
        if self._owned is None or limit <= 0:
            return {}
        ready = [tp for tp in self._consumer._fetcher._records if tp in self._owned and tp not in self._paused]
        if not ready:
            return {}
        self._turn += 1
        turn = self._turn % len(ready)
        ready = ready[turn:] + ready[:turn]
        # First an equal share for each, then whatever is left.
        for quota in (max(1, limit // len(ready)), limit):
            for tp in ready:
                if limit > 0 and (messages := self._take(tp, min(quota, limit))):
                    limit -= len(messages)
                    drained.setdefault(TopicPartition(*tp), []).extend(record_of(message) for message in messages)
        return dict(drained)

    def _take(self, tp: Any, quota: int) -> Sequence[Any]:
        fetcher = self._consumer._fetcher
        fetched = fetcher._records.get(tp)
        if fetched is None:
            return ()
        messages: Sequence[Any] = fetched.getall(quota) if type(fetched) is FetchResult else ()
        if type(fetched) is not FetchResult or not fetched.has_more():
            del fetcher._records[tp]
            fetcher._notify(fetcher._wait_consume_future)
        if type(fetched) is not FetchResult:
            fetched.check_raise()
        return messages

    async def _wait(self, timeout_s: float) -> None:
        """Until records come, something about the group happens, or the time is over."""
        self._waiter = self._consumer._fetcher._create_fetch_waiter()
        timer = asyncio.get_running_loop().call_later(timeout_s, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _state(self, tp: TopicPartition) -> Any:
        subscription = self._consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        return assignment.state_value(tp) if assignment is not None else None

    def _check_life(self) -> None:
        now = time.monotonic()
        if now - self._checked < 1.0:
            return
        self._checked = now
        if now - max(self._started, self._lease.heard or 0.0) > STALL_S:
            raise Retry(f"group {self._group}: its coordinator has not answered for {STALL_S:g} s", after=1.0)
        states = {tp: self._state(tp) for tp in self._owned or ()}
        mark = max((state.timestamp or 0 for state in states.values() if state is not None), default=0)
        # Where every partition has records waiting there is nothing to fetch.
        idle = all(tp in self._consumer._fetcher._records for tp in states)
        if mark != self._fetch_mark or idle:
            self._fetch_mark, self._fetched = mark, now
        elif now - self._fetched > STALL_S:
            raise Retry(f"group {self._group}: no broker has answered a fetch for {STALL_S:g} s", after=1.0)

    @contextmanager
    def _described(self) -> Iterator[None]:
        if self._consumer is None or self._closing:
            raise Fatal("the consumer is not started")
        try:
            yield
        except (errors.CommitFailedError, errors.IllegalStateError):
            raise
        except _FATAL as failure:
            raise Fatal(f"group {self._group}: {type(failure).__name__}: {failure}") from failure
        except (errors.KafkaError, OSError, TimeoutError) as failure:
            coordination_ended = self._consumer._coordinator._coordination_task.done()
            if coordination_ended or (isinstance(failure, errors.KafkaError) and not failure.retriable):
                raise Fatal(f"group {self._group}: cannot go on: {failure!r}") from failure
            raise Retry(f"group {self._group}: {failure!r}", after=0.5) from failure


class _Callbacks(ConsumerRebalanceListener):
    """aiokafka's listener interface. It swallows what these raise, so they raise nothing."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        await self._consumer.on_revoked()

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._consumer.on_assigned(frozenset(TopicPartition(*tp) for tp in assigned))
