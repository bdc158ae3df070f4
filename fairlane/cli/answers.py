"""Follows the log for the answers to requests that are about to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from fairlane.cli.record_text import fields_of
from fairlane.errors import Retry
from fairlane.ports import LogReader, Record
from fairlane.schemas.base import WireModel
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.codec import DecodeError, decode, encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.result import Result
from fairlane.schemas.topics import CHUNKS, DEAD_LETTERS, DECISIONS, RESULTS, TopicSpec, partition_for, request_key

OnChunk = Callable[[Mapping[str, Any]], None]


class AnswerKind(StrEnum):
    """How the wait for a request ended."""

    RESULT = "result"
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class Answer:
    """The record that ended the wait; ``value`` is its JSON."""

    kind: AnswerKind
    value: Mapping[str, Any]


_UNNAMED_KEPT = 1_000
"""How many of the newest dead letters that name no request are kept until their records' places are told."""


@dataclass(frozen=True, slots=True)
class _Expected:
    answer: asyncio.Future[Answer]
    on_chunk: OnChunk | None


class AnswerFollower:
    """Remembers where the topics end, then resolves a future for each expected request.

    Enter it before sending, so that no answer can slip past. The first result of a key counts, as
    everywhere. A request that the gate calls a duplicate may have been answered before: its result
    is then looked up in the log. A dead letter in which no tenant and request could be read is found by
    the place of its record. What is expected is bounded by the caller, who sends no more than
    it waits for. When the log cannot be read any more, every waiting future fails with the reason.
    """

    def __init__(self, reader: LogReader, topic_prefix: str, *, chunks: bool = False) -> None:
        self._reader = reader
        self._prefix = topic_prefix
        self._topics: list[TopicSpec] = [RESULTS, DEAD_LETTERS, DECISIONS, *([CHUNKS] if chunks else [])]
        self._result_starts: Mapping[int, int] = {}
        self._expected: dict[bytes, _Expected] = {}
        self._sent: dict[str, bytes] = {}
        self._unnamed: dict[str, Mapping[str, Any]] = {}
        self._failure: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        starts = {spec.name: await self._reader.ends(spec.full_name(self._prefix)) for spec in self._topics}
        self._result_starts = starts[RESULTS.name]
        self._tasks = [asyncio.create_task(self._follow(spec, starts[spec.name])) for spec in self._topics]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def expect(self, tenant_id: str, request_id: str, on_chunk: OnChunk | None = None) -> asyncio.Future[Answer]:
        """The future answer to a request; call before it is sent. Cancelling it ends the wait."""
        key = request_key(tenant_id, request_id)
        if key in self._expected:
            return self._expected[key].answer
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self._failure is not None:
            answer.set_exception(self._failure)
            return answer
        self._expected[key] = _Expected(answer, on_chunk)
        answer.add_done_callback(lambda _: self._expected.pop(key, None))
        return answer

    def sent(self, tenant_id: str, request_id: str, record: Record) -> None:
        """Tell where an expected request stands in the log."""
        key, place = request_key(tenant_id, request_id), f"{record.topic}/{record.partition}/{record.offset}"
        expected = self._expected.get(key)
        if expected is None:
            return
        self._sent[place] = key
        expected.answer.add_done_callback(lambda _: self._sent.pop(place, None))
        if place in self._unnamed:
            self._resolve(key, AnswerKind.DEAD_LETTER, self._unnamed[place])

    async def _follow(self, spec: TopicSpec, starts: Mapping[int, int]) -> None:
        try:
            async for batch in self._reader.read(spec.full_name(self._prefix), starts):
                await self._take(spec, batch)
            self._fail(Retry(f"reading {spec.name} ended"))
        except Exception as failure:  # noqa: BLE001 - handed to those who wait
            self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        for expected in list(self._expected.values()):
            if not expected.answer.done():
                expected.answer.set_exception(failure)

    async def _take(self, spec: TopicSpec, batch: Sequence[Record]) -> None:
        if spec is DECISIONS:
            await self._look_up(self._duplicates(batch))
        elif spec is DEAD_LETTERS:
            for record in batch:
                letter = _read(DeadLetter, record)
                if letter is not None:
                    self._take_dead_letter(letter)
        elif spec is CHUNKS:
            for record in batch:
                expected = self._expected.get(record.key or b"")
                if expected is not None and expected.on_chunk is not None:
                    chunk = _read(Chunk, record)
                    if chunk is not None:
                        expected.on_chunk(chunk)
        else:
            self._take_results(batch)

    def _take_dead_letter(self, value: Mapping[str, Any]) -> None:
        tenant_id, request_id = value.get("tenant_id"), value.get("request_id")
        if isinstance(tenant_id, str) and isinstance(request_id, str):
            self._resolve(request_key(tenant_id, request_id), AnswerKind.DEAD_LETTER, value)
            return
        place = str(value.get("dead_letter_id"))
        if place in self._sent:
            self._resolve(self._sent[place], AnswerKind.DEAD_LETTER, value)
            return
        self._unnamed[place] = value
        if len(self._unnamed) > _UNNAMED_KEPT:
            del self._unnamed[next(iter(self._unnamed))]

    def _take_results(self, batch: Sequence[Record]) -> None:
        for record in batch:
            if record.key in self._expected:
                result = _read(Result, record)
                if result is not None and record.key == request_key(result["tenant_id"], result["request_id"]):
                    self._resolve(record.key, AnswerKind.RESULT, result)

    def _resolve(self, key: bytes, kind: AnswerKind, value: Mapping[str, Any]) -> None:
        expected = self._expected.get(key)
        if expected is not None and not expected.answer.done():
            expected.answer.set_result(Answer(kind, value))

    def _duplicates(self, batch: Sequence[Record]) -> set[bytes]:
        return {
            record.key
            for record in batch
            if record.key in self._expected and fields_of(record).get("kind") == "duplicate"
        }

    async def _look_up(self, keys: set[bytes]) -> None:
        if not keys:
            return
        topic = RESULTS.full_name(self._prefix)
        wanted = {partition_for(key, len(self._result_starts)) for key in keys}
        first = {partition: at for partition, at in (await self._reader.starts(topic)).items() if partition in wanted}
        ends = {partition: self._result_starts[partition] for partition in first}
        async for batch in self._reader.read(topic, first, ends):
            self._take_results([record for record in batch if record.key in keys])


def _read(contract: type[WireModel], record: Record) -> dict[str, Any] | None:
    """All members by the contract of the topic it stands on; None if it does not keep it: anybody may write there."""
    try:
        value: dict[str, Any] = json.loads(encode(decode(contract, record.value or b"")))
    except DecodeError:
        return None
    return value
