"""What a new owner of inbox partitions learns from the log about its predecessor.

A predecessor that died leaves records it had begun. Those whose result stands in the log are finished;
for the others a provider may have been called, which nobody can take back or see. Such a call is
published as an ``abandoned`` attempt, so that calls made and calls accounted for stay comparable.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from fairlane.agents.effects import CLOCK_MARGIN_MS, source_of
from fairlane.agents.inbox_epochs import EpochFence, decode_note, dispatch_of
from fairlane.agents.topic_names import TopicNames
from fairlane.ports import LogReader, Record, Restored, TopicPartition
from fairlane.schemas.attempt import Attempt, AttemptStatus
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.decision import Decision, DecisionKind
from fairlane.schemas.headers import SOURCE, header
from fairlane.schemas.result import Result
from fairlane.telemetry import get_logger

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A record that a predecessor may have begun. ``abandoned`` is the number of the call that it may have
    made unseen, None where none was begun after the last one in the log; ``following`` is the number of the next call.
    """

    abandoned: int | None
    following: int


@dataclass(slots=True)
class Inheritance:
    """One inbox partition as its predecessor left it; offsets are those of inbox records.

    ``answered`` holds with each record the result whose call nobody told about, if there is one.
    """

    fence: EpochFence
    answered: dict[int, Result | None] = field(default_factory=dict)
    begun: dict[int, Begun] = field(default_factory=dict)


async def inherit(
    reader: LogReader, names: TopicNames, restored: Mapping[TopicPartition, Restored]
) -> dict[TopicPartition, Inheritance]:
    """Read what stands between the committed positions and the ends. Raises Retry while the log is away."""
    inherited = {tp: Inheritance(EpochFence(decode_note(state.note)[0])) for tp, state in restored.items()}
    left = await _unfinished(reader, restored, inherited)
    if not left:
        return inherited
    since_ms = min(record.timestamp_ms for record in left.values()) - CLOCK_MARGIN_MS
    answered = dict(await _effects(reader, names.results, since_ms, left))
    lettered = {source for source, _ in await _effects(reader, names.dead_letters, since_ms, left)}
    attempts = _last_attempts(await _effects(reader, names.attempts, since_ms, left))
    announced = await _announced(reader, names.decisions, since_ms, attempts.keys() - answered.keys())
    worked_on = {left[source].tp for source in answered.keys() | attempts.keys() | lettered}
    for source, record in left.items():
        inheritance, note = inherited[record.tp], restored[record.tp].note
        if source in answered:
            inheritance.answered[record.offset] = _untold(answered[source], attempts.get(source))
        elif source in lettered:
            inheritance.answered[record.offset] = None
        # Nobody worked on a partition that has neither a note nor an effect: nothing was begun there.
        elif note or record.tp in worked_on:
            inheritance.begun[record.offset] = _begun(attempts.get(source), announced.get(source, 0))
    _log.info("worker_takeover", partitions=len(restored), records=len(left), count=len(answered))
    return inherited


async def _unfinished(
    reader: LogReader,
    restored: Mapping[TopicPartition, Restored],
    inherited: Mapping[TopicPartition, Inheritance],
) -> dict[bytes, Record]:
    """Records that will be delivered and that a predecessor may have begun, by source. Learns the epochs."""
    left: dict[bytes, Record] = {}
    for topic in {tp.topic for tp, state in restored.items() if state.offset < state.end}:
        ranges = {
            tp.partition: state for tp, state in restored.items() if tp.topic == topic and state.offset < state.end
        }
        starts = {partition: state.offset for partition, state in ranges.items()}
        ends = {partition: state.end for partition, state in ranges.items()}
        async for batch in reader.read(topic, starts, ends):
            for record in batch:
                state = ranges[record.partition]
                dispatch = dispatch_of(record)
                valid = inherited[record.tp].fence.admits(record.offset, dispatch.epoch) if dispatch else True
                if (
                    valid
                    and record.value is not None
                    and record.offset not in state.finished
                    and not decode_note(state.note)[1]
                ):
                    left[source_of(record)] = record
    return left


async def _effects(reader: LogReader, topic: str, since_ms: int, wanted: Container[bytes]) -> list[tuple[bytes, bytes]]:
    """Source and value of every record of the topic that was made from a wanted one."""
    starts, ends = await reader.offsets_at(topic, since_ms), await reader.ends(topic)
    found: list[tuple[bytes, bytes]] = []
    async for batch in reader.read(topic, starts, ends):
        for record in batch:
            source = header(record.headers, SOURCE)
            if source is not None and source in wanted:
                found.append((source, record.value or b""))
    return found


def _last_attempts(found: list[tuple[bytes, bytes]]) -> dict[bytes, tuple[int, bool]]:
    """For each source the number of its last attempt in the log, and whether that was abandoned."""
    last: dict[bytes, tuple[int, bool]] = {}
    for source, value in found:
        try:
            attempt = decode(Attempt, value)
        except DecodeError as failure:
            _log.warning("attempt_unreadable", error=str(failure))
            continue
        entry = (attempt.attempt, attempt.status is AttemptStatus.ABANDONED)
        last[source] = max(last.get(source, entry), entry)
    return last


def _untold(value: bytes, last: tuple[int, bool] | None) -> Result | None:
    """The result if the attempt it came from is missing: its worker died between the two."""
    try:
        result = decode(Result, value)
    except DecodeError as failure:
        _log.warning("result_unreadable", error=str(failure))
        return None
    return result if result.attempts > (last[0] if last is not None else 0) else None


async def _announced(reader: LogReader, topic: str, since_ms: int, sources: AbstractSet[bytes]) -> dict[bytes, int]:
    """For each source the number of the last call that an owner announced before it made it.

    Hardly ever there is anything to read: the sources are those that were called to the end, but have no result.
    """
    announced: dict[bytes, int] = {}
    for source, value in await _effects(reader, topic, since_ms, sources) if sources else ():
        try:
            decision = decode(Decision, value)
        except DecodeError as failure:
            _log.warning("decision_unreadable", error=str(failure))
            continue
        number = decision.attributes.get("next_attempt", "")
        if decision.kind is DecisionKind.REDELIVERED and number.isdecimal():
            announced[source] = max(announced.get(source, 0), int(number))
    return announced


def _begun(last: tuple[int, bool] | None, announced: int) -> Begun:
    if last is None:
        return Begun(abandoned=1, following=2)
    number, abandoned = last
    # After an abandoned attempt or an announcement the next call was made, of which nothing is known. No later one: a
    # further call begins only when the attempt before it stands in the log.
    return Begun(number + 1, number + 2) if abandoned or announced > number else Begun(None, number + 1)
