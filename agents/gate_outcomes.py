"""What the gate writes for each outcome: results, decisions, dead letters and lane records. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from fairlane.agents.effects import source_of
from fairlane.agents.intake import Accepted, Refused
from fairlane.agents.outgoing import PublicRecords, decision_id, letter_about
from fairlane.agents.topic_names import TopicNames
from fairlane.ports import Admission, Outgoing, Record
from fairlane.schemas.base import timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.codec import decode, encode
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.headers import (
    IDENTITY,
    JOINED,
    SOURCE,
    TICKET,
    TRACEPARENT,
    Headers,
    header,
    identity_header,
    trace_id,
)
from fairlane.schemas.joined import Asking, Joining
from fairlane.schemas.result import Cost, Result, Status, Timings, Usage
from fairlane.schemas.topics import request_key

STAGE = "gate"
QUEUE_FULL_RETRY_MS = 1_000


class GateOutcomes:
    """Builds the records of an outcome; the first is the effect that ends the input's story here."""

    def __init__(self, names: TopicNames) -> None:
        self._names = names
        self._public = PublicRecords(names, STAGE)

    def admitted(self, record: Record, accepted: Accepted, admission: Admission, partition: int) -> list[Outgoing]:
        """The lane record and the decision."""
        job, ticket = accepted.job, accepted.ticket
        source = source_of(record)
        headers: Headers = ((TICKET, encode(ticket)), (SOURCE, source), identity_header(source, accepted.fingerprint))
        if job.traceparent is not None:
            headers = (*headers, (TRACEPARENT, job.traceparent.encode()))
        lane = Outgoing(
            self._names.lanes(job.route.pool),
            request_key(job.tenant_id, job.request_id),
            encode(job),
            headers,
            partition,
        )
        reason = Reason(
            code="admitted",
            message=f"{accepted.reason}; {admission.undispatched} of {accepted.max_undispatched} undispatched",
            limit=accepted.max_undispatched,
            used=admission.undispatched,
            unit="undispatched requests",
        )
        attributes = {
            "pool": job.route.pool,
            "model": job.route.model,
            "route_reason": accepted.reason,
            "price_id": job.route.price_id,
            "hold_nano_usd": str(job.hold_nano_usd),
            "priority": job.priority,
        }
        ids = (job.tenant_id, job.request_id)
        kind = DecisionKind.ADMITTED
        return [
            lane,
            self._decision(record, kind, ids, reason, job.config_version, timestamp_to_ms(job.admitted_at), attributes),
        ]

    def duplicate(self, record: Record, ids: tuple[str, str], config_version: str, now_ms: int) -> list[Outgoing]:
        """A decision alone: the answer comes, or came, because of another record."""
        reason = Reason(code="duplicate", message="this request is known; its one result answers it")
        return [self._decision(record, DecisionKind.DUPLICATE, ids, reason, config_version, now_ms, {})]

    def joined(
        self, record: Record, owner: str, answering: Answering, config_version: str, now_ms: int
    ) -> list[Outgoing]:
        """A decision alone, with all that is needed to answer once ``owner`` is answered."""
        reason = Reason(code="joined", message=f"{owner} has this idempotency key and is in flight")
        extra = (
            (JOINED, encode(Joining(owner=owner, answering=answering.encode().decode()))),
            (IDENTITY, answering.identity.encode()),
        )
        ids = (answering.tenant_id, answering.request_id)
        return [self._decision(record, DecisionKind.JOINED, ids, reason, config_version, now_ms, {}, extra)]

    def refused(self, record: Record, refused: Refused, config_version: str, now_ms: int) -> list[Outgoing]:
        """The rejected or expired result and the decision; needs ids."""
        assert refused.ids is not None
        now = timestamp_from_ms(now_ms)
        received = timestamp_from_ms(record.timestamp_ms)
        result = Result(
            request_id=refused.ids[1],
            tenant_id=refused.ids[0],
            idempotency_key=refused.idempotency_key,
            priority=refused.priority,
            status=refused.status,
            error=refused.detail,
            timings=Timings(
                received_at=received,
                completed_at=max(now, received),
                added_ms=float(max(0, now_ms - record.timestamp_ms)),
            ),
            labels=dict(refused.labels or {}),
            config_version=config_version,
        )
        kind = DecisionKind.EXPIRED if refused.status is Status.EXPIRED else DecisionKind.REJECTED
        reason = _reason(refused.detail)
        traceparent = header(record.headers, TRACEPARENT)
        traceparent = traceparent if trace_id(traceparent) else None
        # Of an unknown tenant nothing is remembered.
        extra = (identity_header(source_of(record), refused.fingerprint),) if refused.tenant_known else ()
        return [
            self._public.result(result, source_of(record), traceparent=traceparent, extra=extra),
            self._decision(record, kind, refused.ids, reason, config_version, now_ms, {}),
        ]

    def dead_letter(
        self,
        record: Record,
        detail: ErrorDetail,
        ids: tuple[str | None, str | None],
        config_version: str,
        now_ms: int,
    ) -> list[Outgoing]:
        """The dead letter, which refers to the record instead of copying it, and the decision.

        ``ids`` are tenant and request as far as they can be read.
        """
        letter = letter_about(record, STAGE, detail, ids, config_version, now_ms)
        kind = DecisionKind.DEAD_LETTERED
        return [
            self._public.dead_letter(letter, source_of(record)),
            self._decision(record, kind, ids, _reason(detail), config_version, now_ms, {}),
        ]

    def replayed(
        self, record: Record, stored: Result, answering: Answering, config_version: str, now_ms: int
    ) -> list[Outgoing]:
        """The stored answer again, under the asking request's id, and the decision. It costs nothing."""
        result = replay_of(stored, answering, config_version, now_ms)
        reason = Reason(
            code="replayed", message=f"the idempotency key has an answer, first given to {stored.request_id}"
        )
        ids = (result.tenant_id, result.request_id)
        return [
            self._public.result(result, source_of(record), extra=((IDENTITY, answering.identity.encode()),)),
            self._decision(record, DecisionKind.REPLAYED, ids, reason, config_version, now_ms, {}),
        ]

    def _decision(
        self,
        record: Record,
        kind: DecisionKind,
        ids: tuple[str | None, str | None],
        reason: Reason,
        config_version: str,
        now_ms: int,
        attributes: Mapping[str, str],
        extra: Headers = (),
    ) -> Outgoing:
        source, traceparent = source_of(record), header(record.headers, TRACEPARENT)
        trace = trace_id(traceparent)
        decision = Decision(
            decision_id=decision_id(source, kind.value),
            event_time=timestamp_from_ms(now_ms),
            stage=STAGE,
            kind=kind,
            tenant_id=ids[0],
            request_id=ids[1],
            reason=reason,
            attributes=dict(attributes),
            config_version=config_version,
            trace_id=trace,
        )
        return self._public.decision(decision, source, traceparent=traceparent if trace else None, extra=extra)


class Answering:
    """Who is answered by a stored result: the parts of the asking request that its answer repeats."""

    __slots__ = ("idempotency_key", "identity", "labels", "priority", "received_ms", "request_id", "tenant_id")

    def __init__(
        self,
        *,
        tenant_id: str,
        request_id: str,
        idempotency_key: str | None,
        priority: str | None,
        labels: Mapping[str, str],
        received_ms: int,
        identity: str,
    ) -> None:
        self.tenant_id = tenant_id
        self.request_id = request_id
        self.idempotency_key = idempotency_key
        self.priority = priority
        self.labels = dict(labels)
        self.received_ms = received_ms
        self.identity = identity
        """The value of the ``fairlane-identity`` header of its result."""

    def encode(self) -> bytes:
        """As kept by the admission store for a request that joined another."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, value: bytes) -> Answering:
        """Undo :meth:`encode`. Raises DecodeError for anything else."""
        return cls(**dict(decode(Asking, value)))


def replay_of(stored: Result, answering: Answering, config_version: str, now_ms: int) -> Result:
    """The stored answer for another request: same status, response and error; no usage, no cost."""
    received, now = timestamp_from_ms(answering.received_ms), timestamp_from_ms(now_ms)
    return Result(
        request_id=answering.request_id,
        tenant_id=answering.tenant_id,
        idempotency_key=answering.idempotency_key,
        priority=answering.priority,
        status=stored.status,
        response=stored.response,
        error=stored.error,
        usage=Usage(),
        cost=Cost(nano_usd=0, price_id=stored.cost.price_id),
        route=stored.route,
        timings=Timings(
            received_at=received,
            completed_at=max(now, received),
            added_ms=float(max(0, now_ms - answering.received_ms)),
        ),
        attempts=0,
        cached=stored.cached,
        replayed=True,
        labels=answering.labels,
        config_version=config_version,
    )


def without_response(replay: Result) -> Result:
    """What a request gets whose replay is larger than a record can be: the first answer just fitted."""
    detail = error(
        ErrorCode.INVALID_RESPONSE,
        "the stored answer is, with this request's ids and labels, larger than a record can be",
        hint="Read the answer of the first request, or use fewer labels.",
    )
    return replay.model_copy(update={"status": Status.FAILED, "response": None, "error": detail})


def queue_full(admission: Admission, limit: int) -> ErrorDetail:
    """The error of a tenant at its cap, with the figures."""
    return error(
        ErrorCode.QUEUE_FULL,
        f"{admission.undispatched} of {limit} undispatched requests are waiting",
        field="tenant_id",
        retry_after_ms=QUEUE_FULL_RETRY_MS,
    )


def _reason(detail: ErrorDetail) -> Reason:
    where = f" ({detail.field})" if detail.field else ""
    return Reason(code=detail.code.value, message=detail.message + where, suggestion=detail.hint)
