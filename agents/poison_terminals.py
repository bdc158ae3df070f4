"""The terminal of a record on an internal topic that a stage cannot work on. Pure.

The request that its ticket or its job names was admitted and holds money: it gets a ``failed`` result, by which
settle releases the hold. A record that names none was written by somebody else, and becomes a dead letter.
"""

from __future__ import annotations

from fairlane.agents.effects import source_of
from fairlane.agents.outgoing import PublicRecords, letter_about
from fairlane.agents.topic_names import TopicNames
from fairlane.errors import Poison
from fairlane.ports import Outgoing, Record
from fairlane.schemas.base import timestamp_from_ms, timestamp_to_ms
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.headers import IDENTITY, TICKET, Headers, header, only, traceparent_of
from fairlane.schemas.job import Job, Ticket
from fairlane.schemas.request_codec import readable_parts
from fairlane.schemas.result import Result, Status, Timings

_HINT = "Only Fairlane writes to this topic: find out who else does, and keep them off by ACLs."


class PoisonTerminals:
    """Builds the terminals of one stage."""

    def __init__(self, names: TopicNames, stage: str) -> None:
        self._stage = stage
        self._public = PublicRecords(names, stage)

    def made(self, record: Record, failure: Exception, config_version: str, now_ms: int) -> Result | DeadLetter:
        """What to tell of the record; ``failure`` is why it cannot be worked on."""
        ticket, job = _ticket(record), _job(record)
        if ticket is not None or isinstance(job, Job):
            return _failed(ticket, job, self._detail(job, failure), config_version, now_ms)
        detail = job.detail.model_copy(update={"hint": _HINT})
        # Ids that a junk document shows are told, but answered they are not: their request may be on its way.
        return letter_about(record, self._stage, detail, readable_parts(record.value), config_version, now_ms)

    def outgoing(self, record: Record, terminal: Result | DeadLetter, *, extra: Headers = ()) -> Outgoing:
        """As a record; a result also has the headers ``extra``."""
        if isinstance(terminal, DeadLetter):
            return self._public.dead_letter(terminal, source_of(record))
        return self._public.result(
            terminal,
            source_of(record),
            traceparent=traceparent_of(record.headers),
            extra=(*extra, *only(record.headers, IDENTITY)),
        )

    def _detail(self, job: Job | DecodeError, failure: Exception) -> ErrorDetail:
        if isinstance(job, DecodeError):
            return error(ErrorCode.INTERNAL, f"the {self._stage} cannot read the job of this request: {job}")
        why = str(failure) if isinstance(failure, Poison) else type(failure).__name__
        return error(ErrorCode.INTERNAL, f"the {self._stage} failed on this request: {why}")


def _ticket(record: Record) -> Ticket | None:
    try:
        return decode(Ticket, header(record.headers, TICKET) or b"")
    except DecodeError:
        return None


def _job(record: Record) -> Job | DecodeError:
    if record.value is None:
        return DecodeError(error(ErrorCode.INVALID_JSON, "the record has no value (a tombstone)"))
    try:
        return decode(Job, record.value)
    except DecodeError as failure:
        return failure


def _failed(
    ticket: Ticket | None, job: Job | DecodeError, detail: ErrorDetail, config_version: str, now_ms: int
) -> Result:
    # Under another's ticket, its key and labels must not come into this one's result.
    known = job if isinstance(job, Job) and (ticket is None or ticket.names(job)) else None
    named = ticket or known
    assert named is not None
    received_ms = ticket.received_ms if ticket else timestamp_to_ms(known.received_at) if known else now_ms
    admitted_ms = ticket.admitted_ms if ticket else timestamp_to_ms(known.admitted_at) if known else now_ms
    return Result(
        request_id=named.request_id,
        tenant_id=named.tenant_id,
        idempotency_key=known.idempotency_key if known else None,
        priority=named.priority,
        status=Status.FAILED,
        error=detail,
        timings=Timings(
            received_at=timestamp_from_ms(received_ms),
            admitted_at=timestamp_from_ms(admitted_ms),
            completed_at=timestamp_from_ms(max(now_ms, received_ms)),
            added_ms=float(max(0, now_ms - received_ms)),
        ),
        labels=known.labels if known else {},
        config_version=config_version,
    )
