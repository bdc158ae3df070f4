"""One pool while this process owns it: lanes, slots, and the records that bind one to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from fairlane.agents.acknowledgements import Acknowledgement, when_acknowledged
from fairlane.agents.config_view import ConfigView
from fairlane.agents.effects import place_of, source_of
from fairlane.agents.ended_admissions import EndedAdmissions
from fairlane.agents.inbox_watch import InboxWatch
from fairlane.agents.lane_entries import BoundEntry, LaneEntry
from fairlane.agents.lane_records import LaneRecords
from fairlane.agents.on_its_way import OnItsWay
from fairlane.agents.pool_takeover import Inherited
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison, Retry
from fairlane.policy.slots import SlotGroups
from fairlane.policy.vtc import FairQueue, Pick, Waiting
from fairlane.ports import Done, LogReader, Outgoing, Publisher, Record, TopicPartition
from fairlane.schemas.base import timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.decision import DecisionKind
from fairlane.schemas.errors import ErrorCode
from fairlane.schemas.headers import SOURCE, TICKET, header
from fairlane.schemas.job import Ticket
from fairlane.schemas.result import Status
from fairlane.schemas.scheduler_state import SchedulerState
from fairlane.schemas.topics import request_key
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

LEASE_WAIT_S = 0.2
RETURN_MS = 60_000
"""In this time after a takeover all that waited before it has been read again."""
EXPIRED_AT_ONCE = 500
"""A backlog that expired together is ended over several ticks, so that others are dispatched meanwhile."""


class PoolScheduler:
    """Pairs waiting records with free slots. What it writes completes by callbacks."""

    def __init__(
        self,
        pool: str,
        inherited: Inherited,
        *,
        names: TopicNames,
        publisher: Publisher,
        clock: Clock,
        metrics: Metrics,
        on_its_way: OnItsWay,
        lease_ok: Callable[[], bool],
        dispatched: Callable[[str, str], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.pool = pool
        self._inbox, self._results = names.inbox(pool), names.results
        self._publisher = publisher
        self._records = LaneRecords(names, pool, inherited.epoch)
        self._clock = clock
        self._metrics = metrics
        self._on_its_way = on_its_way
        self._lease_ok = lease_ok
        self._dispatched = dispatched
        self._fail = fail
        self._inherited = inherited
        self._queue = FairQueue()
        self._slots = SlotGroups(inherited.groups)
        self._ended = EndedAdmissions()
        self._watch = InboxWatch(self._inbox, inherited.epoch, inherited.markers)
        self._pending: set[Acknowledgement] = set()
        self._writing: set[bytes] = set()
        self._given_up: dict[bytes, bool] = {}
        self._cancelling: dict[bytes, None] = {}
        self._expired: dict[bytes, Waiting] = {}
        self._suspended = False
        self._lost = False
        self._reported: set[str] = set()
        self.changed, self._began_ms = True, clock.now_ms()
        for key, group in inherited.in_flight.items():
            self._slots.take(group, key, None)
        if (state := inherited.state) is not None:
            at_ms = timestamp_to_ms(state.event_time)
            self._queue.restore(state.counters, state.floor, state.predicted_output, at_ms)

    def apply(self, view: ConfigView) -> None:
        """Take slots and weights as applied now."""
        pool = view.pools.get(self.pool)
        self._slots.resize(pool.slots if pool is not None else 0)
        self._queue.set_weights({name: float(tenant.weight) for name, tenant in view.tenants.items()})
        self._records.version = view.version

    @property
    def waits(self) -> bool:
        """Whether any request waits, for a slot or for what was written before."""
        return len(self._queue) > 0 or len(self._expired) > 0

    @property
    def under_way(self) -> int:
        """How many requests have a slot."""
        return self._slots.in_flight

    @property
    def _may_write(self) -> bool:
        """Whether nobody else can own the pool; what another owner dispatched must not be ended here."""
        return not self._suspended and not self._lost and self._lease_ok()

    def suspend(self) -> None:
        """Dispatch and end nothing more: the pool is being taken over under a new epoch."""
        self._suspended = True

    def lose(self) -> None:
        """Another owns the lanes. An acknowledgement that comes now finishes nothing: it may be void there."""
        self._lost = True
        self._watch.close()

    def left_over(self, taken: Iterable[TopicPartition]) -> list[tuple[Record, Done]]:
        """What waits here of other partitions than ``taken``, in order of arrival."""
        gone = frozenset(taken)
        entries = [waiting.payload for waiting in (*self._expired.values(), *self._queue.all_waiting())]
        kept = [each for each in entries if isinstance(each, LaneEntry) and each.record.tp not in gone]
        return [(each.record, each.done) for each in kept]

    def offer(self, record: Record, done: Done) -> None:
        """Take a lane record. Raises Poison if it was not written by a gate."""
        source = source_of(record)
        if source in self._writing or source in self._watch:
            # Given back by the engine while it is on its way, or not known to count: that finishes it.
            return
        if source in self._inherited.handled:
            self._inherited.handled.discard(source)
            self._declare_inherited(record, source, done)
            return
        key, raw = record.key, header(record.headers, TICKET)
        if key is None or raw is None or record.value is None:
            raise Poison("a lane record without key, ticket or job")
        try:
            ticket, admission = decode(Ticket, raw), header(record.headers, SOURCE) or key
        except DecodeError as failure:
            raise Poison(f"a lane record whose ticket cannot be read: {failure}") from None
        if key != request_key(ticket.tenant_id, ticket.request_id):
            # Its result would come under another key, and its slot would never be freed.
            raise Poison("a lane record whose key is not that of the request its ticket names")
        waiting = self._queue.get(key) or self._expired.get(key)
        if waiting is not None or key in self._slots or admission in self._ended:
            if waiting is not None and isinstance(waiting.payload, LaneEntry):
                held = waiting.payload.record
                if (held.tp, held.offset) == (record.tp, record.offset):
                    waiting.payload = waiting.payload._replace(done=done)
                    return
            self._metrics.inc("dispatcher_duplicates_total", pool=self.pool)
            done(record)
            return
        self._queue.push(
            Waiting(
                key=key,
                tenant_id=ticket.tenant_id,
                band=ticket.priority,
                model=ticket.model,
                input_tokens=ticket.input_tokens,
                output_limit=ticket.output_limit,
                arrived_ms=ticket.admitted_ms,
                deadline_ms=ticket.deadline_ms,
                payload=LaneEntry(record, source, ticket, admission, done),
            )
        )

    def pump(self) -> None:
        """Bind waiting records to free slots until one of both runs out, or too much is on its way.

        What was cancelled or is past its deadline by now leaves its lane before: none of it may go.
        """
        if not self._may_write:
            return
        self._end_cancelled()
        self._expired.update((waiting.key, waiting) for waiting in self._queue.expire(self._clock.now_ms()))
        while len(self._queue) and not self._on_its_way.full() and (group := self._slots.free_group()) is not None:
            pick = self._queue.pick()
            if pick is None:
                break
            self._bind(pick, group)
        self._end_expired()

    def ended(self, key: bytes, input_tokens: int, output_tokens: int) -> None:
        """A terminal result of a dispatched request: free its slot, settle its charge."""
        if key not in self._slots:
            return
        bound = self._slots.release(key)
        self.changed = True
        if isinstance(bound, BoundEntry):
            self._ended.add(bound.admission)
            if input_tokens or output_tokens:
                self._queue.settle(bound.charge, input_tokens, output_tokens)
            else:
                self._queue.refund(bound.charge)

    def cancel(self, key: bytes) -> bool:
        """End a waiting request by command, as soon as the lease is certain; False if it does not wait here."""
        if key not in self._queue or self._suspended:
            return False
        self._cancelling[key] = None
        if self._may_write:
            self._end_cancelled()
        return True

    def at_worker(self, key: bytes) -> bool:
        """Whether this request holds a slot: it will end by itself."""
        return key in self._slots

    def _end_cancelled(self) -> None:
        now_ms = self._clock.now_ms()
        while self._cancelling and not self._on_its_way.full():
            waiting = self._queue.remove(self._cancelling.popitem()[0])
            if waiting is not None:
                kind = DecisionKind.CANCELLED
                self._end_in_lane(_taken(waiting), Status.CANCELLED, kind, ErrorCode.CANCELLED, now_ms)

    def _end_expired(self) -> None:
        """Some of them: nobody else's request waits for that."""
        now_ms = self._clock.now_ms()
        for _ in range(min(len(self._expired), EXPIRED_AT_ONCE)):
            if self._on_its_way.full():
                return
            waiting = self._expired.popitem()[1]
            self._metrics.inc("dispatcher_expired_total", pool=self.pool, tenant=waiting.tenant_id)
            kind = DecisionKind.EXPIRED
            self._end_in_lane(_taken(waiting), Status.EXPIRED, kind, ErrorCode.DEADLINE_EXCEEDED, now_ms)

    def snapshot(self) -> SchedulerState:
        """Counters for the next owner."""
        self.changed, now_ms = False, self._clock.now_ms()
        if now_ms - self._began_ms > RETURN_MS:
            self._queue.returned()
        counters, floor, predicted = self._queue.snapshot()
        return SchedulerState(
            pool=self.pool,
            epoch=self._inherited.epoch,
            event_time=timestamp_from_ms(now_ms),
            counters=counters,
            floor=floor,
            predicted_output=predicted,
        )

    def report(self) -> None:
        """Set the gauges."""
        self._metrics.set("dispatcher_slots", self._slots.capacity, pool=self.pool)
        self._metrics.set("dispatcher_slots_busy", self._slots.in_flight, pool=self.pool)
        waiting = self._queue.waiting_by_tenant()
        for tenant in self._reported - waiting.keys():
            self._metrics.set("dispatcher_waiting_records", 0, pool=self.pool, tenant=tenant)
        for tenant, records in waiting.items():
            self._metrics.set("dispatcher_waiting_records", records, pool=self.pool, tenant=tenant)
        self._reported = set(waiting)

    async def check_inbox(self, reader: LogReader) -> None:
        """Finish dispatches that had to wait until it is known that they count. Raises Retry or Fatal."""
        try:
            await self._watch.check(reader)
        except Fatal:
            if self._lease_ok():
                raise
            # Whoever owns the pool by now wrote that epoch, and this process has not heard of it yet.
            raise Retry("the lease on the pool is not certain", after=LEASE_WAIT_S) from None

    async def settled(self) -> None:
        """Wait for the acknowledgements of everything written."""
        while self._pending:
            await asyncio.wait(self._pending)

    def _bind(self, pick: Pick, group: int) -> None:
        lane, now_ms = _taken(pick.waiting), self._clock.now_ms()
        ticket, waited_ms = lane.ticket, max(0, now_ms - lane.ticket.admitted_ms)
        try:
            slots, busy = self._slots.capacity, self._slots.in_flight + 1
            decision = self._records.bound(lane.source, ticket, pick, group, waited_ms, slots, busy, now_ms)
            outgoing = [decision, self._records.dispatch(lane.record, lane.source, group, now_ms)]
        except Exception as failure:  # noqa: BLE001 - whatever it is, the request gets its terminal, and others go on
            self._queue.refund(pick.charge)
            self._give_up(lane.record, lane.source, failure, lambda: lane.done(lane.record))
            return
        self._slots.take(group, pick.waiting.key, BoundEntry(pick.charge, lane.admission))
        self.changed = True
        self._metrics.inc("dispatcher_dispatched_total", pool=self.pool, tenant=ticket.tenant_id)
        self._metrics.observe("dispatcher_queue_seconds", waited_ms / 1000, pool=self.pool, tenant=ticket.tenant_id)

        def acknowledged() -> None:
            lane.done(lane.record)
            self._dispatched(ticket.tenant_id, ticket.request_id)

        self._write(outgoing, lane.source, acknowledged, lambda: self._end_refused(lane))

    def _end_refused(self, lane: LaneEntry) -> None:
        """The log can never take the record for the worker: with its headers it is too large."""
        if lane.record.key is not None:
            self.ended(lane.record.key, 0, 0)
        self._end_in_lane(lane, Status.FAILED, DecisionKind.REJECTED, ErrorCode.TOO_LARGE, self._clock.now_ms())

    def _end_in_lane(self, lane: LaneEntry, status: Status, kind: DecisionKind, code: ErrorCode, now_ms: int) -> None:
        self._ended.add(lane.admission)
        outgoing = self._records.ended(lane.record, lane.ticket, status, kind, code, now_ms)

        def finish() -> None:
            lane.done(lane.record)

        self._write(outgoing, lane.source, finish, refused=finish)

    def _declare_inherited(self, record: Record, source: bytes, done: Done) -> None:
        """A predecessor dispatched or ended this record; its decision may be missing."""
        try:
            ticket = decode(Ticket, header(record.headers, TICKET) or b"")
        except DecodeError:
            ticket = None
        if source in self._inherited.decided or ticket is None:
            self._inherited.decided.discard(source)
            done(record)
            return
        decision = self._records.dispatched_before(source, ticket, self._clock.now_ms())
        self._write([decision], source, lambda: done(record))

    async def poisoned(self, record: Record, failure: Exception) -> None:
        """Give a record its terminal that this could not take; returns when that is in the log.

        Raises Retry while another may own the pool. Called again after it was cut short, it writes nothing twice.
        """
        source = source_of(record)
        if source not in self._given_up and source not in self._writing:
            if not self._may_write:
                raise Retry("the lease is not certain", after=LEASE_WAIT_S)
            key = record.key or b""
            waiting = self._queue.get(key) or self._expired.get(key)
            if waiting is not None and isinstance(waiting.payload, LaneEntry) and waiting.payload.source == source:
                self._queue.remove(key)
                self._expired.pop(key, None)
                waiting.payload = None
            self._given_up[source] = False
            self._give_up(record, source, failure, lambda: self._given_up.update({source: True}))
        while source in self._writing:
            await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
        written = self._given_up.pop(source, None)
        if written is None or self._lost:
            raise Retry("the record was on its way, or the pool is lost", after=LEASE_WAIT_S)
        if not written:
            raise Fatal("the terminal of a lane record was not acknowledged")

    def _give_up(self, record: Record, source: bytes, failure: Exception, finish: Callable[[], None]) -> None:
        _log.error(
            "lane_record_unusable",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=f"{type(failure).__name__}: {failure}" if isinstance(failure, Poison) else type(failure).__name__,
        )
        outgoing = self._records.unusable(record, failure, self._clock.now_ms())
        admission = header(record.headers, SOURCE)
        if admission is not None and outgoing[-1].topic == self._results:
            self._ended.add(admission)
        self._write(outgoing, source, finish, refused=finish)

    def _write(
        self,
        outgoing: Sequence[Outgoing],
        source: bytes,
        finish: Callable[[], None],
        refused: Callable[[], None] | None = None,
    ) -> None:
        """All of it; if there is a dispatch among it, that is the last."""
        acks = [self._publisher.send(item) for item in outgoing]
        dispatch = self._watch.sent(outgoing[-1], acks[-1])
        size = OnItsWay.size_of(outgoing)
        self._on_its_way.size += size
        self._writing.add(source)

        def acknowledged(failure: BaseException | None) -> None:
            self._writing.discard(source)
            self._on_its_way.size -= size
            if self._lost:
                return
            if failure is None:
                self._watch.written(dispatch, source, finish)
            elif isinstance(failure, Poison) and refused is not None:
                _log.error("terminal_refused", pool=self.pool, offset=place_of(source)[1], error=str(failure))
                refused()
            else:
                # Whether it is in the log is unknown; a takeover by a new process finds out.
                self._fail(Fatal(f"a write of the dispatcher was not acknowledged: {failure}"))

        when_acknowledged(acks, self._pending, acknowledged)


def _taken(waiting: Waiting) -> LaneEntry:
    """What rides on a request that left its lane. Its place there may be kept for long, and the record with it."""
    lane, waiting.payload = waiting.payload, None
    assert isinstance(lane, LaneEntry)
    return lane
