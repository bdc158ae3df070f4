"""Sends requests with a bound on what is in flight, and prints what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from fairlane.cli import display
from fairlane.cli.answers import Answer, AnswerFollower, AnswerKind
from fairlane.cli.record_text import error_text, result_text
from fairlane.cli.request_input import Prepared
from fairlane.errors import FairlaneError, Poison, Reject
from fairlane.ports import Outgoing, Publisher, Record
from fairlane.schemas.topics import REQUESTS, request_key

_LAST_CHUNK_S = 5.0


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How to send, as against what to send. ``many``: requests come from stdin."""

    wait_s: float
    stream: bool
    as_json: bool
    many: bool
    in_flight: int


class Sending:
    """One run of ``fairlane send``. Without a follower a request is finished when Kafka has it."""

    def __init__(
        self, publisher: Publisher, follower: AnswerFollower | None, topic_prefix: str, options: SendOptions
    ) -> None:
        self._publisher = publisher
        self._follower = follower
        self._topic = REQUESTS.full_name(topic_prefix)
        self._options = options
        self._room = asyncio.Semaphore(options.in_flight)
        self._counts: dict[str, int] = {}
        self._all_well = True
        self._attempt_shown = 1
        self._last_chunk = asyncio.Event()

    async def run(self, requests: AsyncIterator[Prepared]) -> bool:
        """Send all and, with a follower, wait for all; returns whether every one went well.

        Raises Reject for unusable input, after what came before it is finished.
        """
        unusable: FairlaneError | None = None
        if not self._options.many:
            async for prepared in requests:
                await self._one(prepared)
            return self._all_well
        with display.progress("answered" if self._follower else "sent", None) as advance:
            try:
                async with asyncio.TaskGroup() as tasks:
                    try:
                        async for prepared in requests:
                            await self._room.acquire()
                            tasks.create_task(self._one_of_many(prepared, advance))
                    except FairlaneError as failure:
                        unusable = failure
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
        if self._counts:
            click.echo(", ".join(f"{count} {what}" for what, count in sorted(self._counts.items())), err=True)
        if unusable is not None:
            raise unusable
        if not self._counts:
            raise Reject("standard input has no request: give one JSON object a line")
        return self._all_well

    async def _one_of_many(self, prepared: Prepared, advance: display.Advance) -> None:
        try:
            await self._one(prepared)
        finally:
            advance(1)
            self._room.release()

    async def _one(self, prepared: Prepared) -> None:
        answer = None
        if self._follower is not None:
            on_chunk = self._print_chunk if self._options.stream else None
            answer = self._follower.expect(prepared.tenant_id, prepared.request_id, on_chunk)
        key = request_key(prepared.tenant_id, prepared.request_id)
        try:
            record = await self._publisher.send(Outgoing(self._topic, key, prepared.value))
        except Poison as failure:
            self._bad("unsent", prepared, f"was not sent: {failure}")
            if answer is not None:
                answer.cancel()
            return
        if answer is None or self._follower is None:
            self._print_sent(prepared, record)
            return
        self._follower.sent(prepared.tenant_id, prepared.request_id, record)
        try:
            outcome = await asyncio.wait_for(answer, self._options.wait_s)
        except TimeoutError:
            self._bad("unanswered", prepared, f"has no result after {self._options.wait_s:g} s; it may still come")
            return
        if self._options.stream and not self._options.many and outcome.value.get("status") == "succeeded":
            # The chunks are in the log before the result is, but on another topic.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._last_chunk.wait(), _LAST_CHUNK_S)
        self._print_answer(prepared, outcome)

    def _bad(self, what: str, prepared: Prepared, message: str) -> None:
        self._count(what)
        self._all_well = False
        click.echo(f"{prepared.tenant_id}/{prepared.request_id} {message}", err=True)

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1

    def _print_sent(self, prepared: Prepared, record: Record) -> None:
        self._count("sent")
        if self._options.as_json:
            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            ids = {"tenant_id": prepared.tenant_id, "request_id": prepared.request_id}
            display.print_json({**ids, **place}, indent=None)
        else:
            click.echo(prepared.request_id)

    def _print_answer(self, prepared: Prepared, answer: Answer) -> None:
        if answer.kind is AnswerKind.DEAD_LETTER:
            self._count("dead-lettered")
            self._all_well = False
        else:
            self._count(str(answer.value["status"]))
            self._all_well = self._all_well and answer.value["status"] == "succeeded"
        if self._options.as_json:
            display.print_json(answer.value, indent=None)
            return
        if answer.kind is AnswerKind.DEAD_LETTER:
            text = f"dead-lettered, {error_text(answer.value['error'])}"
        else:
            text = result_text(answer.value)
        if self._options.many:
            click.echo(f"{prepared.tenant_id}  {prepared.request_id}  {text}")
            return
        if answer.kind is AnswerKind.RESULT and answer.value.get("response") and not self._options.stream:
            click.echo(answer_text(answer.value["response"]))
        elif self._options.stream:
            click.echo()
        click.echo(f"{text}\nmore: fairlane explain {prepared.request_id} --tenant {prepared.tenant_id}", err=True)

    def _print_chunk(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("last"):
            self._last_chunk.set()
        if self._options.as_json:
            display.print_json(chunk, indent=None)
            return
        if chunk["attempt"] > self._attempt_shown:
            self._attempt_shown = chunk["attempt"]
            click.echo(f"\n[attempt {chunk['attempt']} starts over]", err=True)
        for choice in _objects(chunk["delta"].get("choices")):
            delta = choice.get("delta")
            content = delta.get("content") if isinstance(delta, dict) else None
            click.echo(content if isinstance(content, str) else "", nl=False)


def answer_text(response: Mapping[str, Any]) -> str:
    """The text of a chat completion; its choices one after the other, tool calls as JSON."""
    texts = []
    for message in (choice.get("message") for choice in _objects(response.get("choices"))):
        if not isinstance(message, dict):
            continue
        content = message.get("content") or message.get("refusal")
        texts.append(content if isinstance(content, str) else str(message.get("tool_calls") or ""))
    return "\n".join(texts)


def _objects(value: object) -> list[Mapping[str, Any]]:
    """Those in a list: what a provider sent is passed on as it came."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
