"""One pool while this process owns it: lanes, slots, and the records that bind one to the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from fairlane.agents.acknowledgements import Acknowledgement, when_acknowledged
from fairlane.agents.config_view import ConfigView
from fairlane.agents.effects import source_of
from fairlane.agents.lane_result import lane_result
from fairlane.agents.on_its_way import OnItsWay
from fairlane.agents.outgoing import PublicRecords, decision_id
from fairlane.agents.pool_takeover import Inherited
from fairlane.agents.topic_names import TopicNames
from fairlane.agents.wait_reason import why_waited
from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison
from fairlane.policy.slots import SlotGroups
from fairlane.policy.vtc import Charge, FairQueue, Pick, Waiting
from fairlane.ports import Done, Outgoing, Publisher, Record, TopicPartition
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.headers import DISPATCH, IDENTITY, SOURCE, TICKET, TRACEPARENT, Headers, header, only
from fairlane.schemas.job import Dispatch, Job, Ticket
from fairlane.schemas.result import Status
from fairlane.schemas.scheduler_state import SchedulerState
from fairlane.telemetry import Metrics

STAGE = "dispatcher"
ENDED_MAX = 50_000
"""Admissions that ended lately, remembered to recognise a lane record written twice."""
EXPIRED_AT_ONCE = 500
"""A backlog that expired together is ended over several ticks, so that other pools and the group are heard."""


class _Lane(NamedTuple):
    """What rides on a waiting request. ``source`` names the record, ``admission`` what the gate made it from: the
    same if it wrote it twice. A request id that is used again when its answer is forgotten is another admission.
    """

    record: Record
    source: bytes
    ticket: Ticket
    admission: bytes | None
    done: Done


class _Bound(NamedTuple):
    """What is remembered of a request that holds a slot."""

    charge: Charge
    admission: bytes | None


class PoolScheduler:
    """Pairs waiting records with free slots. All methods are synchronous; effects complete by callbacks."""

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
        self._inbox = names.inbox(pool)
        self._publisher = publisher
        self._public = PublicRecords(names, STAGE)
        self._clock = clock
        self._metrics = metrics
        self._on_its_way = on_its_way
        self._lease_ok = lease_ok
        self._dispatched = dispatched
        self._fail = fail
        self._inherited = inherited
        self._queue = FairQueue()
        self._slots = SlotGroups(inherited.groups)
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._version = ""
        self._dispatch: tuple[int, tuple[str, bytes]] = (-1, (DISPATCH, b""))
        self._pending: set[Acknowledgement] = set()
        self._writing: set[bytes] = set()
        self._cancelling: dict[bytes, None] = {}
        self._suspended = False
        self._lost = False
        self._reported: set[str] = set()
        self.changed = True
        for key, group in inherited.in_flight.items():
            self._slots.take(group, key, None)
        if (state := inherited.state) is not None:
            self._queue.restore(state.counters, state.floor, state.predicted_output)

    def apply(self, view: ConfigView) -> None:
        """Take slots and weights as applied now."""
        pool = view.pools.get(self.pool)
        self._slots.resize(pool.slots if pool is not None else 0)
        self._queue.set_weights({name: float(tenant.weight) for name, tenant in view.tenants.items()})
        self._version = view.version

    @property
    def waits(self) -> bool:
        """Whether any request waits, for a slot or for what was written before."""
        return len(self._queue) > 0

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

    def left_over(self, taken: Iterable[TopicPartition]) -> list[tuple[Record, Done]]:
        """What waits here of other partitions than ``taken``, in order of arrival."""
        gone = frozenset(taken)
        lanes = [waiting.payload for waiting in self._queue.all_waiting()]
        return [(lane.record, lane.done) for lane in lanes if isinstance(lane, _Lane) and lane.record.tp not in gone]

    def offer(self, record: Record, done: Done) -> None:
        """Take a lane record. Raises Poison if it was not written by a gate."""
        source = source_of(record)
        if source in self._writing:
            # Given back by the engine while it is on its way: the acknowledgement finishes it.
            return
        if source in self._inherited.handled:
            self._inherited.handled.discard(source)
            self._declare_inherited(record, source, done)
            return
        key, raw = record.key, header(record.headers, TICKET)
        if key is None or raw is None or record.value is None:
            raise Poison("a lane record without key, ticket or job")
        ticket, admission = decode(Ticket, raw), header(record.headers, SOURCE) or key
        waiting = self._queue.get(key)
        if waiting is not None or key in self._slots or admission in self._ended:
            if waiting is not None and isinstance(waiting.payload, _Lane):
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
                payload=_Lane(record, source, ticket, admission, done),
            )
        )

    def pump(self) -> None:
        """Bind waiting records to free slots until one of both runs out, or too much is on its way."""
        if not self._may_write:
            return
        self._end_cancelled()
        while len(self._queue) and not self._on_its_way.full() and (group := self._slots.free_group()) is not None:
            pick = self._queue.pick()
            if pick is None:
                return
            self._bind(pick, group)

    def ended(self, key: bytes, input_tokens: int, output_tokens: int) -> None:
        """A terminal result of a dispatched request: free its slot, settle its charge."""
        if key not in self._slots:
            return
        bound = self._slots.release(key)
        self.changed = True
        if isinstance(bound, _Bound):
            self._remember(bound.admission)
            if input_tokens or output_tokens:
                self._queue.settle(bound.charge, input_tokens, output_tokens)
            else:
                self._queue.refund(bound.charge)

    def expire(self) -> None:
        """End waiting requests whose deadline has passed, some of them at a time."""
        now_ms = self._clock.now_ms()
        if not self._may_write or self._on_its_way.full():
            return
        for waiting in islice(self._queue.expire(now_ms), EXPIRED_AT_ONCE):
            self._metrics.inc("dispatcher_expired_total", pool=self.pool, tenant=waiting.tenant_id)
            kind = DecisionKind.EXPIRED
            self._end_in_lane(waiting.payload, Status.EXPIRED, kind, ErrorCode.DEADLINE_EXCEEDED, now_ms)
            if self._on_its_way.full():
                return

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
        while self._cancelling:
            waiting = self._queue.remove(self._cancelling.popitem()[0])
            if waiting is not None:
                kind = DecisionKind.CANCELLED
                self._end_in_lane(waiting.payload, Status.CANCELLED, kind, ErrorCode.CANCELLED, now_ms)

    def snapshot(self) -> SchedulerState:
        """Counters for the next owner."""
        self.changed = False
        counters, floor, predicted = self._queue.snapshot()
        return SchedulerState(
            pool=self.pool,
            epoch=self._inherited.epoch,
            event_time=timestamp_from_ms(self._clock.now_ms()),
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

    async def settled(self) -> None:
        """Wait for the acknowledgements of everything written."""
        while self._pending:
            await asyncio.wait(self._pending)

    def _bind(self, pick: Pick, group: int) -> None:
        lane = pick.waiting.payload
        assert isinstance(lane, _Lane)
        record, ticket, now_ms = lane.record, lane.ticket, self._clock.now_ms()
        key, source = pick.waiting.key, lane.source
        headers: Headers = (self._dispatch_header(now_ms), (SOURCE, source))
        headers += only(record.headers, TICKET, TRACEPARENT, IDENTITY)
        self._slots.take(group, key, _Bound(pick.charge, lane.admission))
        self.changed = True
        waited_ms = max(0, now_ms - ticket.admitted_ms)
        self._metrics.inc("dispatcher_dispatched_total", pool=self.pool, tenant=ticket.tenant_id)
        self._metrics.observe("dispatcher_queue_seconds", waited_ms / 1000, pool=self.pool, tenant=ticket.tenant_id)
        attributes = {
            "pool": self.pool,
            "slot_group": str(group),
            "waited_ms": str(waited_ms),
            "own_requests_before": str(pick.own_before),
            "others_before": str(pick.others_before),
            "charged_units": f"{pick.charge.units:.0f}",
            "normalised_service": f"{pick.counter:.0f}",
        }
        reason = why_waited(pick, waited_ms, self._slots.capacity, self._slots.in_flight)
        decision = self._decision(source, DecisionKind.DISPATCHED, ticket, reason, attributes, now_ms)
        inbox = Outgoing(self._inbox, key, record.value, headers, group)
        self._write(
            [self._public.decision(decision, source), inbox],
            lane,
            lambda: self._dispatched(ticket.tenant_id, ticket.request_id),
            lambda: self._end_refused(lane),
        )

    def _dispatch_header(self, now_ms: int) -> tuple[str, bytes]:
        """The same for all that leaves in one millisecond."""
        dispatched_ms, made = self._dispatch
        if dispatched_ms != now_ms:
            made = DISPATCH, encode(Dispatch(epoch=self._inherited.epoch, dispatched_ms=now_ms))
            self._dispatch = now_ms, made
        return made

    def _end_refused(self, lane: _Lane) -> None:
        """The log can never take the record for the worker: with its headers it is too large."""
        if lane.record.key is not None:
            self.ended(lane.record.key, 0, 0)
        self._end_in_lane(lane, Status.FAILED, DecisionKind.REJECTED, ErrorCode.TOO_LARGE, self._clock.now_ms())

    def _end_in_lane(self, lane: object, status: Status, kind: DecisionKind, code: ErrorCode, now_ms: int) -> None:
        assert isinstance(lane, _Lane)
        record, ticket = lane.record, lane.ticket
        job, source = decode(Job, record.value or b""), lane.source
        waited_ms = max(0, now_ms - ticket.admitted_ms)
        message = f"after waiting {waited_ms} ms in the lane"
        field = "deadline" if status is Status.EXPIRED else None
        detail = error(code, f"{status.value} {message}", field=field)
        result = lane_result(job, ticket, self.pool, status, detail, now_ms)
        reason = Reason(code=code.value, message=message)
        decision = self._decision(source, kind, ticket, reason, {"waited_ms": str(waited_ms)}, now_ms)
        traceparent = header(record.headers, TRACEPARENT)
        self._remember(lane.admission)
        self._write(
            [
                self._public.decision(decision, source),
                self._public.result(result, source, traceparent=traceparent, extra=only(record.headers, IDENTITY)),
            ],
            lane,
            lambda: None,
        )

    def _declare_inherited(self, record: Record, source: bytes, done: Done) -> None:
        """A predecessor dispatched or ended this record; its decision may be missing."""
        raw = header(record.headers, TICKET)
        if source in self._inherited.decided or raw is None:
            self._inherited.decided.discard(source)
            done(record)
            return
        ticket = decode(Ticket, raw)
        reason = Reason(code="takeover", message="dispatched by the previous owner of the pool")
        decision = self._decision(source, DecisionKind.DISPATCHED, ticket, reason, {}, self._clock.now_ms())
        lane = _Lane(record, source, ticket, None, done)
        self._write([self._public.decision(decision, source)], lane, lambda: None)

    def _decision(
        self,
        source: bytes,
        kind: DecisionKind,
        ticket: Ticket,
        reason: Reason,
        attributes: dict[str, str],
        now_ms: int,
    ) -> Decision:
        return Decision(
            decision_id=decision_id(source, kind.value),
            event_time=timestamp_from_ms(now_ms),
            stage=STAGE,
            kind=kind,
            tenant_id=ticket.tenant_id,
            request_id=ticket.request_id,
            reason=reason,
            attributes=attributes,
            config_version=self._version,
            trace_id=ticket.trace_id,
        )

    def _write(
        self,
        outgoing: Sequence[Outgoing],
        lane: _Lane,
        then: Callable[[], None],
        refused: Callable[[], None] | None = None,
    ) -> None:
        acks = [self._publisher.send(item) for item in outgoing]
        source, size = lane.source, OnItsWay.size_of(outgoing)
        self._on_its_way.size += size
        self._writing.add(source)

        def acknowledged(failure: BaseException | None) -> None:
            self._writing.discard(source)
            self._on_its_way.size -= size
            if self._lost:
                return
            if failure is None:
                lane.done(lane.record)
                then()
            elif isinstance(failure, Poison) and refused is not None:
                refused()
            else:
                # Whether it is in the log is unknown; a takeover by a new process finds out.
                self._fail(Fatal(f"a write of the dispatcher was not acknowledged: {failure}"))

        when_acknowledged(acks, self._pending, acknowledged)

    def _remember(self, admission: bytes | None) -> None:
        if admission is not None:
            self._ended[admission] = None
            if len(self._ended) > ENDED_MAX:
                self._ended.popitem(last=False)
