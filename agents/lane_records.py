"""What the dispatcher makes of lane records: dispatches, decisions, and the terminals of those that end there. Pure."""

from __future__ import annotations

from fairlane.agents.effects import source_of
from fairlane.agents.lane_result import lane_result
from fairlane.agents.outgoing import PublicRecords, decision_id
from fairlane.agents.poison_terminals import PoisonTerminals
from fairlane.agents.topic_names import TopicNames
from fairlane.agents.wait_reason import why_waited
from fairlane.errors import Poison
from fairlane.policy.vtc import Pick
from fairlane.ports import Outgoing, Record
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import DecodeError, decode, encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.headers import DISPATCH, IDENTITY, SOURCE, TICKET, TRACEPARENT, Headers, only, traceparent_of
from fairlane.schemas.job import Dispatch, Job, Ticket
from fairlane.schemas.result import Status

STAGE = "dispatcher"


class LaneRecords:
    """Builds the records of one pool. ``version`` is the configuration's, as applied now."""

    def __init__(self, names: TopicNames, pool: str, epoch: int) -> None:
        self._pool = pool
        self._inbox = names.inbox(pool)
        self._epoch = epoch
        self._dispatch: tuple[int, tuple[str, bytes]] = (-1, (DISPATCH, b""))
        self._public = PublicRecords(names, STAGE)
        self._poison = PoisonTerminals(names, STAGE)
        self.version = ""

    def dispatch(self, record: Record, source: bytes, group: int, now_ms: int) -> Outgoing:
        """The record in the inbox of a worker."""
        headers: Headers = (self._dispatch_header(now_ms), (SOURCE, source))
        headers += only(record.headers, TICKET, TRACEPARENT, IDENTITY)
        return Outgoing(self._inbox, record.key, record.value, headers, group)

    def _dispatch_header(self, now_ms: int) -> tuple[str, bytes]:
        """The same for all that leaves in one millisecond."""
        dispatched_ms, made = self._dispatch
        if dispatched_ms != now_ms:
            made = DISPATCH, encode(Dispatch(epoch=self._epoch, dispatched_ms=now_ms))
            self._dispatch = now_ms, made
        return made

    def bound(
        self, source: bytes, ticket: Ticket, pick: Pick, group: int, waited_ms: int, slots: int, busy: int, now_ms: int
    ) -> Outgoing:
        """The decision that the request goes to a worker, and why not sooner."""
        attributes = {
            "pool": self._pool,
            "slot_group": str(group),
            "waited_ms": str(waited_ms),
            "own_requests_before": str(pick.own_before),
            "others_before": str(pick.others_before),
            "charged_units": f"{pick.charge.units:.0f}",
            "normalised_service": f"{pick.counter:.0f}",
        }
        return self._dispatched(source, ticket, why_waited(pick, waited_ms, slots, busy), attributes, now_ms)

    def dispatched_before(self, source: bytes, ticket: Ticket, now_ms: int) -> Outgoing:
        """The decision that a predecessor did not live to write."""
        reason = Reason(code="takeover", message="dispatched by the previous owner of the pool")
        return self._dispatched(source, ticket, reason, {}, now_ms)

    def _dispatched(
        self, source: bytes, ticket: Ticket, reason: Reason, attributes: dict[str, str], now_ms: int
    ) -> Outgoing:
        kind, ids = DecisionKind.DISPATCHED, (ticket.tenant_id, ticket.request_id)
        return self._decision(source, kind, ids, reason, attributes, now_ms, ticket.trace_id)

    def ended(
        self, record: Record, ticket: Ticket, status: Status, kind: DecisionKind, code: ErrorCode, now_ms: int
    ) -> list[Outgoing]:
        """Decision and result of a request that ended while it waited."""
        try:
            job = decode(Job, record.value or b"")
        except DecodeError as failure:
            return self.unusable(record, failure, now_ms)
        if not ticket.names(job):
            return self.unusable(record, Poison("a lane record whose job is not what its ticket names"), now_ms)
        source, waited_ms = source_of(record), max(0, now_ms - ticket.admitted_ms)
        message = f"after waiting {waited_ms} ms in the lane"
        field = "deadline" if status is Status.EXPIRED else None
        detail = error(code, f"{status.value} {message}", field=field)
        result = lane_result(job, ticket, self._pool, status, detail, now_ms)
        reason, ids = Reason(code=code.value, message=message), (ticket.tenant_id, ticket.request_id)
        traceparent = traceparent_of(record.headers)
        return [
            self._decision(source, kind, ids, reason, {"waited_ms": str(waited_ms)}, now_ms, ticket.trace_id),
            self._public.result(result, source, traceparent=traceparent, extra=only(record.headers, IDENTITY)),
        ]

    def unusable(self, record: Record, failure: Exception, now_ms: int) -> list[Outgoing]:
        """Decision and terminal of a record that no gate wrote, or that the code fails on."""
        terminal = self._poison.made(record, failure, self.version, now_ms)
        kind = DecisionKind.DEAD_LETTERED if isinstance(terminal, DeadLetter) else DecisionKind.REJECTED
        detail, ids = terminal.error, (terminal.tenant_id, terminal.request_id)
        assert detail is not None
        reason = Reason(code=detail.code.value, message=detail.message, suggestion=detail.hint)
        return [
            self._decision(source_of(record), kind, ids, reason, {}, now_ms, None),
            self._poison.outgoing(record, terminal),
        ]

    def _decision(
        self,
        source: bytes,
        kind: DecisionKind,
        ids: tuple[str | None, str | None],
        reason: Reason,
        attributes: dict[str, str],
        now_ms: int,
        trace_id: str | None,
    ) -> Outgoing:
        decision = Decision(
            decision_id=decision_id(source, kind.value),
            event_time=timestamp_from_ms(now_ms),
            stage=STAGE,
            kind=kind,
            tenant_id=ids[0],
            request_id=ids[1],
            reason=reason,
            attributes=attributes,
            config_version=self.version,
            trace_id=trace_id,
        )
        return self._public.decision(decision, source)
