"""How each public model becomes a record: topic, key, value and headers, the same for every stage."""

from __future__ import annotations

import hashlib

from fairlane.agents.effects import source_of
from fairlane.agents.topic_names import TopicNames
from fairlane.ports import Outgoing, Record
from fairlane.schemas.attempt import ATTEMPT_SCHEMA, Attempt
from fairlane.schemas.base import format_timestamp, timestamp_from_ms
from fairlane.schemas.chunk import CHUNK_SCHEMA, Chunk
from fairlane.schemas.codec import encode
from fairlane.schemas.dead_letter import DEAD_LETTER_SCHEMA, DeadLetter
from fairlane.schemas.decision import DECISION_SCHEMA, Decision
from fairlane.schemas.errors import ErrorDetail
from fairlane.schemas.headers import SOURCE, TRACEPARENT, Headers, cloud_event
from fairlane.schemas.result import RESULT_SCHEMA, Result
from fairlane.schemas.topics import request_key


class PublicRecords:
    """Builds the records of one stage; ``ce_source`` names it."""

    def __init__(self, names: TopicNames, stage: str) -> None:
        self._names = names
        self._ce_source = f"fairlane/{stage}"

    def result(
        self, result: Result, source: bytes, *, traceparent: bytes | None = None, extra: Headers = ()
    ) -> Outgoing:
        """A terminal result, keyed by its request."""
        key = request_key(result.tenant_id, result.request_id)
        time = format_timestamp(result.timings.completed_at)
        headers = self._headers(RESULT_SCHEMA, key.decode(), time, source, traceparent) + extra
        return Outgoing(self._names.results, key, encode(result), headers)

    def decision(
        self, decision: Decision, source: bytes, *, traceparent: bytes | None = None, extra: Headers = ()
    ) -> Outgoing:
        """A decision, keyed by its request, or by its own id where there is none."""
        if decision.tenant_id is not None and decision.request_id is not None:
            key = request_key(decision.tenant_id, decision.request_id)
        else:
            key = decision.decision_id.encode()
        time = format_timestamp(decision.event_time)
        headers = self._headers(DECISION_SCHEMA, decision.decision_id, time, source, traceparent) + extra
        return Outgoing(self._names.decisions, key, encode(decision), headers)

    def attempt(self, attempt: Attempt, source: bytes, *, traceparent: bytes | None = None) -> Outgoing:
        """A provider call, keyed by its request."""
        key = request_key(attempt.tenant_id, attempt.request_id)
        time = format_timestamp(attempt.completed_at)
        headers = self._headers(ATTEMPT_SCHEMA, attempt.attempt_id, time, source, traceparent)
        return Outgoing(self._names.attempts, key, encode(attempt), headers)

    def chunk(self, chunk: Chunk, source: bytes, *, traceparent: bytes | None = None) -> Outgoing:
        """A piece of a streamed answer, keyed by its request."""
        key = request_key(chunk.tenant_id, chunk.request_id)
        time, event_id = format_timestamp(chunk.event_time), f"{key.decode()}/{chunk.attempt}/{chunk.sequence}"
        headers = self._headers(CHUNK_SCHEMA, event_id, time, source, traceparent)
        return Outgoing(self._names.chunks, key, encode(chunk), headers)

    def dead_letter(self, letter: DeadLetter, source: bytes) -> Outgoing:
        """A dead letter, keyed by its own id."""
        time = format_timestamp(letter.event_time)
        headers = self._headers(DEAD_LETTER_SCHEMA, letter.dead_letter_id, time, source, None)
        return Outgoing(self._names.dead_letters, letter.dead_letter_id.encode(), encode(letter), headers)

    def _headers(self, event_type: str, event_id: str, time: str, source: bytes, traceparent: bytes | None) -> Headers:
        headers = (*cloud_event(event_type, event_id, self._ce_source, time), (SOURCE, source))
        return headers if traceparent is None else (*headers, (TRACEPARENT, traceparent))


def letter_about(
    record: Record,
    stage: str,
    detail: ErrorDetail,
    ids: tuple[str | None, str | None],
    config_version: str,
    now_ms: int,
) -> DeadLetter:
    """The dead letter of a record, which it refers to instead of copying it; ``ids`` as far as they can be read."""
    value = record.value or b""
    return DeadLetter(
        dead_letter_id=source_of(record).decode(),
        event_time=timestamp_from_ms(now_ms),
        stage=stage,
        source_topic=record.topic,
        source_partition=record.partition,
        source_offset=record.offset,
        tenant_id=ids[0],
        request_id=ids[1],
        error=detail,
        payload_bytes=len(value),
        payload_sha256=hashlib.sha256(value).hexdigest(),
        config_version=config_version,
    )


def decision_id(source: bytes, kind: str) -> str:
    """The same for every redelivery of the source record."""
    return f"{source.decode()}/{kind}"
