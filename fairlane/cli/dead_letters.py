"""Reading dead letters and sending their records again. Knows the log's ports only."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from fairlane.agents.outgoing import PublicRecords
from fairlane.agents.topic_names import TopicNames
from fairlane.errors import FairlaneError
from fairlane.ports import LogReader, Outgoing, Publisher, Record
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.headers import REDRIVE
from fairlane.schemas.topics import partition_for


class CannotRedrive(FairlaneError):
    """This dead letter cannot be sent again; the message says why."""


@dataclass(frozen=True, slots=True)
class Letters:
    """The newest dead letters by id, oldest first, each as its last record says; ``older`` were left out."""

    by_id: Mapping[str, DeadLetter]
    older: int = 0


async def read_letters(
    reader: LogReader, names: TopicNames, *, limit: int, code: str | None = None, open_only: bool = False
) -> Letters:
    """The newest ``limit`` dead letters with this error code; ``open_only`` leaves out those redriven."""
    found: dict[str, DeadLetter] = {}
    older = 0
    async for letter in _letters(reader, names.dead_letters):
        name = letter.dead_letter_id
        if open_only and letter.redriven_at is not None:
            found.pop(name, None)
        elif name in found:
            found[name] = letter
        elif code is None or letter.error.code == code:
            found[name] = letter
            if len(found) > limit:
                del found[next(iter(found))]
                older += 1
    return Letters(found, older)


async def find_letter(reader: LogReader, names: TopicNames, dead_letter_id: str) -> DeadLetter | None:
    """One dead letter as its last record says, or None."""
    found = None
    async for letter in _letters(reader, names.dead_letters):
        if letter.dead_letter_id == dead_letter_id:
            found = letter
    return found


async def source_record(reader: LogReader, letter: DeadLetter) -> Record | None:
    """The record the dead letter is about; None if its topic no longer keeps it, or keeps another in its place."""
    starts = await reader.starts(letter.source_topic)
    ends = await reader.ends(letter.source_topic)
    partition, offset = letter.source_partition, letter.source_offset
    if not starts.get(partition, 0) <= offset < ends.get(partition, 0):
        return None
    async for batch in reader.read(letter.source_topic, {partition: offset}, {partition: offset + 1}):
        for record in batch:
            same = hashlib.sha256(record.value or b"").hexdigest() == letter.payload_sha256
            if record.offset == offset and same:
                return record
    return None


async def redrive(
    letter: DeadLetter,
    reader: LogReader,
    publisher: Publisher,
    names: TopicNames,
    now_ms: int,
    *,
    again: bool,
) -> None:
    """Send the original bytes to ``requests`` again and note it on the dead letter.

    The request goes first: after a crash between the two it may be sent twice, which the gate takes
    for the duplicate it is. Raises :class:`CannotRedrive`, or Retry if the log does not acknowledge.
    """
    if letter.redriven_at is not None and not again:
        raise CannotRedrive(f"{letter.dead_letter_id} was redriven already; --again sends it once more")
    if letter.source_topic != names.requests:
        raise CannotRedrive(f"{letter.dead_letter_id} is no request, so sending it again would not process it")
    record = await source_record(reader, letter)
    if record is None:
        raise CannotRedrive(f"{letter.dead_letter_id} is gone: {letter.source_topic} no longer keeps the record")
    if record.fault is not None:
        raise CannotRedrive(
            f"{letter.dead_letter_id} cannot be unpacked ({record.fault}); its producer must send it again"
        )
    if record.key is None and record.value is None:
        raise CannotRedrive(f"{letter.dead_letter_id} has neither key nor value; there is nothing to send")
    headers = tuple((name, value) for name, value in record.headers if name != REDRIVE)
    dead_letter_id = letter.dead_letter_id.encode()
    partition = None
    if record.key is None:
        partition = partition_for(dead_letter_id, await publisher.partitions(names.requests))
    await publisher.send(
        Outgoing(names.requests, record.key, record.value, (*headers, (REDRIVE, dead_letter_id)), partition)
    )
    noted = letter.model_copy(update={"redriven_at": timestamp_from_ms(now_ms)})
    await publisher.send(PublicRecords(names, "dlq").dead_letter(noted, dead_letter_id))


async def _letters(reader: LogReader, topic: str) -> AsyncIterator[DeadLetter]:
    starts, ends = await reader.starts(topic), await reader.ends(topic)
    async for batch in reader.read(topic, starts, ends):
        for record in batch:
            if record.value is None:
                continue
            try:
                yield decode(DeadLetter, record.value)
            except DecodeError:
                continue  # only we write this topic; what a stranger put there is no dead letter
