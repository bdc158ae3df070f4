"""A dead letter leads to its record as long as that is kept, and sends it again once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.agents.topic_names import TopicNames
from fairlane.cli.dead_letters import CannotRedrive, find_letter, read_letters, redrive, source_record
from fairlane.cli.dlq import printable
from fairlane.ports import Outgoing, Record
from fairlane.ports.log import Fault
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.errors import ErrorCode, error

NAMES = TopicNames("t.")
NOW = 1_793_491_200_000


class Queue:
    """Requests and their dead letters."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        for topic in (NAMES.requests, NAMES.dead_letters, NAMES.results):
            self.log.create_topic(topic, 1)
        self.reader = MemoryReader(self.log)

    def request(self, value: bytes | None, key: bytes | None = b"k", topic: str = NAMES.requests) -> Record:
        headers = (("traceparent", b"00-1"), ("fairlane-redrive", b"an older one"))
        return self.log.append(Outgoing(topic, key, value, headers))

    def letter(self, source: Record, code: ErrorCode = ErrorCode.INVALID_JSON) -> DeadLetter:
        letter = DeadLetter(
            dead_letter_id=f"{source.topic}/{source.partition}/{source.offset}",
            event_time=timestamp_from_ms(NOW),
            stage="gate",
            source_topic=source.topic,
            source_partition=source.partition,
            source_offset=source.offset,
            error=error(code),
            payload_bytes=len(source.value or b""),
            payload_sha256=hashlib.sha256(source.value or b"").hexdigest(),
            config_version="t0-c0",
        )
        self.log.append(Outgoing(NAMES.dead_letters, letter.dead_letter_id.encode(), encode(letter)))
        return letter

    async def redrive(self, letter: DeadLetter, *, again: bool = False) -> None:
        await redrive(letter, self.reader, MemoryPublisher(self.log), NAMES, NOW, again=again)


@pytest.fixture
def queue() -> Queue:
    return Queue()


async def test_letters_are_read_oldest_first_and_by_code(queue: Queue) -> None:
    first = queue.letter(queue.request(b"{"))
    second = queue.letter(queue.request(b"[]"), ErrorCode.SCHEMA_VIOLATION)
    queue.log.append(Outgoing(NAMES.dead_letters, b"x", b"no dead letter"))
    assert list((await read_letters(queue.reader, NAMES, limit=10)).by_id.values()) == [first, second]
    found = await read_letters(queue.reader, NAMES, limit=10, code="schema_violation")
    assert list(found.by_id) == [second.dead_letter_id]


async def test_a_limit_keeps_the_newest_and_counts_the_rest(queue: Queue) -> None:
    letters = [queue.letter(queue.request(b"{")) for _ in range(5)]
    found = await read_letters(queue.reader, NAMES, limit=2)
    assert list(found.by_id) == [letter.dead_letter_id for letter in letters[3:]]
    assert found.older == 3


async def test_a_redriven_request_has_its_bytes_key_and_headers_and_names_its_dead_letter(queue: Queue) -> None:
    source = queue.request(b'{"a":1}')
    letter = queue.letter(source)
    await queue.redrive(letter)
    sent = queue.log.records(NAMES.requests)[-1]
    assert (sent.key, sent.value) == (source.key, source.value)
    assert sent.headers == (("traceparent", b"00-1"), ("fairlane-redrive", b"t.requests/0/0"))


async def test_a_redriven_dead_letter_says_when_and_is_open_no_more(queue: Queue) -> None:
    letter = queue.letter(queue.request(b"{"))
    other = queue.letter(queue.request(b"{"))
    await queue.redrive(letter)
    found = await find_letter(queue.reader, NAMES, letter.dead_letter_id)
    assert found is not None
    assert found.redriven_at == timestamp_from_ms(NOW)
    assert len((await read_letters(queue.reader, NAMES, limit=10)).by_id) == 2
    still_open = await read_letters(queue.reader, NAMES, limit=10, open_only=True)
    assert list(still_open.by_id) == [other.dead_letter_id]


async def test_a_second_redrive_is_refused_unless_it_is_meant(queue: Queue) -> None:
    letter = queue.letter(queue.request(b"{"))
    await queue.redrive(letter)
    noted = await find_letter(queue.reader, NAMES, letter.dead_letter_id)
    assert noted is not None
    with pytest.raises(CannotRedrive, match="was redriven already; --again"):
        await queue.redrive(noted)
    assert len(queue.log.records(NAMES.requests)) == 2
    await queue.redrive(noted, again=True)
    assert len(queue.log.records(NAMES.requests)) == 3


async def test_a_record_that_retention_took_is_told_and_nothing_is_sent(queue: Queue) -> None:
    letter = queue.letter(queue.request(b"{"))
    queue.log.trim(NAMES.requests, 0, 1)
    assert await source_record(queue.reader, letter) is None
    with pytest.raises(CannotRedrive, match=r"is gone: t\.requests no longer keeps the record"):
        await queue.redrive(letter)
    assert len(queue.log.records(NAMES.dead_letters)) == 1


async def test_another_record_at_the_same_place_is_not_taken_for_the_dead_letters_own(queue: Queue) -> None:
    letter = queue.letter(queue.request(b"{"))
    changed = letter.model_copy(update={"payload_sha256": hashlib.sha256(b"other").hexdigest()})
    assert await source_record(queue.reader, letter) is not None
    assert await source_record(queue.reader, changed) is None


async def test_what_is_no_request_cannot_be_redriven(queue: Queue) -> None:
    letter = queue.letter(queue.request(b"{", topic=NAMES.results))
    with pytest.raises(CannotRedrive, match="is no request"):
        await queue.redrive(letter)


async def test_a_request_without_a_key_is_redriven_to_a_fixed_partition(queue: Queue) -> None:
    await queue.redrive(queue.letter(queue.request(b"{", key=None)))
    assert queue.log.records(NAMES.requests)[-1].key is None


def test_shown_payloads_do_nothing_to_a_terminal() -> None:
    assert printable("a\x1b[31m\u202eb\r\n\tß") == "a\\x1b[31m\\u202eb\\r\n\tß"


class UnpackingReader(MemoryReader):
    """Reads every record as Kafka's reader reads one whose batch holds too much."""

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        async for batch in super().read(topic, starts, ends, committed_only=committed_only):
            yield [replace(record, key=None, value=None, headers=(), fault=Fault.TOO_LARGE) for record in batch]


async def test_a_record_that_nobody_can_unpack_is_found_but_not_sent_again(queue: Queue) -> None:
    letter = queue.letter(queue.request(b""), ErrorCode.TOO_LARGE)
    queue.reader = UnpackingReader(queue.log)
    source = await source_record(queue.reader, letter)
    assert source is not None
    assert source.fault is Fault.TOO_LARGE
    with pytest.raises(CannotRedrive, match="cannot be unpacked"):
        await queue.redrive(letter)
