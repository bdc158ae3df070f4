"""Sending requests and waiting for their answers, on a log in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.cli.answers import AnswerFollower
from fairlane.cli.request_input import Envelope, Prepared, from_prompt
from fairlane.cli.sending import Sending, SendOptions
from fairlane.errors import Poison, Reject, Retry
from fairlane.ports import Outgoing, Record
from fairlane.schemas.base import WireModel, timestamp_from_ms
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.codec import encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.result import Result, Status, Timings, Usage
from fairlane.schemas.topics import request_key

PREFIX = "t."


def options(**changes: object) -> SendOptions:
    values: dict[str, object] = {"wait_s": 5.0, "stream": False, "as_json": False, "many": False, "in_flight": 10}
    return SendOptions(**{**values, **changes})  # type: ignore[arg-type]


def prepared(request_id: str = "r-1") -> Prepared:
    return from_prompt("Hello", Envelope(tenant_id="acme"), lambda: request_id)


async def these(*requests: Prepared) -> AsyncIterator[Prepared]:
    for request in requests:
        yield request


def result_json(request_id: str, status: str = "succeeded", text: str = "Hi there") -> dict[str, object]:
    at = timestamp_from_ms(1_795_197_600_000)
    return json_of(
        Result(
            request_id=request_id,
            tenant_id="acme",
            status=Status(status),
            response={"choices": [{"message": {"content": text}}]},
            usage=Usage(input_tokens=2, output_tokens=3),
            timings=Timings(received_at=at, completed_at=at, queue_ms=1.0, model_ms=2.0),
            config_version="v",
        )
    )


def json_of(model: WireModel) -> dict[str, object]:
    value: dict[str, object] = json.loads(encode(model))
    return value


def letter_json(request_id: str | None, code: ErrorCode, dead_letter_id: str = "t.requests/0/1") -> dict[str, object]:
    topic, partition, offset = dead_letter_id.split("/")
    return json_of(
        DeadLetter(
            dead_letter_id=dead_letter_id,
            event_time=timestamp_from_ms(1_795_197_600_000),
            stage="gate",
            source_topic=topic,
            source_partition=int(partition),
            source_offset=int(offset),
            tenant_id="acme" if request_id else None,
            request_id=request_id,
            error=error(code, "m"),
            payload_bytes=1,
            payload_sha256="0" * 64,
            config_version="v",
        )
    )


def chunk_json(delta: dict[str, Any], *, last: bool = False) -> dict[str, object]:
    at = timestamp_from_ms(1_795_197_600_000)
    return json_of(
        Chunk(request_id="r-1", tenant_id="acme", attempt=1, sequence=0, event_time=at, delta=delta, last=last)
    )


def write(log: MemoryLog, topic: str, request_id: str, value: dict[str, object]) -> None:
    log.append(Outgoing(PREFIX + topic, request_key("acme", request_id), json.dumps(value).encode()))


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topics(PREFIX)
    return log


@asynccontextmanager
async def answering(log: MemoryLog, *answers: tuple[str, dict[str, object]]) -> AsyncIterator[None]:
    """Once a request stands in the log, write these (topic, value) records about it."""

    async def answer() -> None:
        reader = MemoryReader(log)
        async for batch in reader.read(f"{PREFIX}requests", await reader.starts(f"{PREFIX}requests")):
            for _ in batch:
                for topic, value in answers:
                    write(log, topic, str(value["request_id"]), value)

    task = asyncio.create_task(answer())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def send_and_wait(log: MemoryLog, chosen: SendOptions, *requests: Prepared) -> bool:
    async with AnswerFollower(MemoryReader(log), PREFIX, chunks=chosen.stream) as follower:
        return await Sending(MemoryPublisher(log), follower, PREFIX, chosen).run(these(*requests))


async def test_without_waiting_the_request_id_is_printed_when_kafka_has_it(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    well = await Sending(MemoryPublisher(log), None, PREFIX, options()).run(these(prepared()))

    assert well
    assert capsys.readouterr().out == "r-1\n"
    (record,) = log.records(f"{PREFIX}requests")
    assert record.key == b"acme/r-1"
    assert json.loads(record.value or b"")["body"]["messages"][0]["content"] == "Hello"


async def test_the_answer_goes_to_stdout_and_its_figures_to_stderr(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    async with answering(log, ("results", result_json("r-1"))):
        assert await send_and_wait(log, options(), prepared())

    captured = capsys.readouterr()
    assert captured.out == "Hi there\n"
    assert "succeeded" in captured.err
    assert "fairlane explain r-1 --tenant acme" in captured.err


async def test_members_that_a_result_leaves_out_are_those_of_its_contract(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = result_json("r-1")
    least = {name: whole[name] for name in ("request_id", "tenant_id", "status", "config_version")}
    times = {"received_at": "2026-11-19T00:00:00.000Z", "completed_at": "2026-11-19T00:00:00.000Z"}
    async with answering(log, ("results", {**least, "timings": times})):
        assert await send_and_wait(log, options(), prepared())
    assert "succeeded, queue 0.0 ms" in capsys.readouterr().err


async def test_one_failed_result_among_many_makes_the_whole_fail(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [("results", result_json("r-1")), ("results", result_json("r-2", "failed"))]
    async with answering(log, *answers):
        well = await send_and_wait(log, options(many=True), prepared("r-1"), prepared("r-2"))

    captured = capsys.readouterr()
    assert not well
    assert sorted(line.split()[1] for line in captured.out.splitlines()) == ["r-1", "r-2"]
    assert "1 failed, 1 succeeded" in captured.err


async def test_the_first_result_of_a_request_counts(log: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [("results", result_json("r-1")), ("results", result_json("r-1", "failed"))]
    async with answering(log, *answers):
        assert await send_and_wait(log, options(as_json=True), prepared())

    assert json.loads(capsys.readouterr().out)["status"] == "succeeded"


async def test_a_result_from_before_is_found_when_the_gate_calls_the_request_a_duplicate(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    write(log, "results", "r-1", result_json("r-1", text="from before"))
    async with answering(log, ("decisions", {"request_id": "r-1", "kind": "duplicate"})):
        assert await send_and_wait(log, options(), prepared())

    assert capsys.readouterr().out == "from before\n"


def bury(log: MemoryLog, dead_letter_id: str) -> None:
    letter = json.dumps(letter_json(None, ErrorCode.INVALID_JSON, dead_letter_id)).encode()
    log.append(Outgoing(f"{PREFIX}dead-letters", dead_letter_id.encode(), letter))


async def test_a_dead_letter_of_somebody_that_names_no_request_disturbs_no_wait(log: MemoryLog) -> None:
    async with AnswerFollower(MemoryReader(log), PREFIX) as follower:
        answer = follower.expect("acme", "r-1")
        bury(log, f"{PREFIX}requests/0/17")
        write(log, "results", "r-1", result_json("r-1"))
        assert (await asyncio.wait_for(answer, 5)).value["status"] == "succeeded"
        write(log, "results", "r-2", result_json("r-2"))
        later = follower.expect("acme", "r-2")
        assert (await asyncio.wait_for(later, 5)).value["status"] == "succeeded"


class Taken(MemoryReader):
    """Remembers of which topics somebody took records and came back for more."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.topics: set[str] = set()

    async def read(self, topic: str, *args: Any, **kwargs: Any) -> AsyncIterator[Sequence[Record]]:
        """See the port."""
        async for batch in super().read(topic, *args, **kwargs):
            yield batch
            if batch:
                self.topics.add(topic)


@pytest.mark.parametrize(
    "value",
    [
        b"garbage",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        b'"text"',
        b"{}",
        b'{"junk":1}',
        b'{"status":"succeeded"}',
        b'{"tenant_id":"acme","request_id":"r-1"}',
        b'{"status":"succeeded","timings":{},"usage":{},"cost":{}}',
        b'{"tenant_id":"acme","request_id":"r-1","error":{}}',
        b'{"tenant_id":"\\ud800","request_id":"x","error":{}}',
        b'{"attempt":1,"delta":{"choices":[1]}}',
        json.dumps(result_json("r-2", "failed")).encode(),
    ],
)
@pytest.mark.parametrize("topic", ["results", "dead-letters", "decisions", "chunks"])
async def test_what_somebody_else_wrote_there_disturbs_no_wait(log: MemoryLog, topic: str, value: bytes) -> None:
    chunks: list[Mapping[str, object]] = []
    reader = Taken(log)
    async with AnswerFollower(reader, PREFIX, chunks=True) as follower:
        answer = follower.expect("acme", "r-1", on_chunk=chunks.append)
        log.append(Outgoing(PREFIX + topic, request_key("acme", "r-1"), value))
        async with asyncio.timeout(5):
            while PREFIX + topic not in reader.topics:  # noqa: ASYNC110 - a task of the follower does it
                await asyncio.sleep(0)
        write(log, "results", "r-1", result_json("r-1"))
        assert (await asyncio.wait_for(answer, 5)).value["status"] == "succeeded"
    assert chunks == []


@pytest.mark.parametrize("told_first", [True, False])
async def test_a_dead_letter_that_names_no_request_is_found_by_the_place_of_its_record(
    log: MemoryLog, told_first: bool
) -> None:
    publisher = MemoryPublisher(log)
    record = await publisher.send(Outgoing(f"{PREFIX}requests", b"k", b"{"))
    place = f"{record.topic}/{record.partition}/{record.offset}"
    async with AnswerFollower(MemoryReader(log), PREFIX) as follower:
        answer, other = follower.expect("acme", "r 1"), follower.expect("acme", "r-2")
        if told_first:
            follower.sent("acme", "r 1", record)
        bury(log, place)
        write(log, "dead-letters", "r-2", letter_json("r-2", ErrorCode.INVALID_JSON))
        await asyncio.wait_for(other, 5)
        follower.sent("acme", "r 1", record)
        assert (await asyncio.wait_for(answer, 5)).value["error"]["code"] == "invalid_json"


async def test_a_dead_letter_ends_the_wait_as_a_failure(log: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    async with answering(log, ("dead-letters", letter_json("r-1", ErrorCode.REQUEST_ID_REUSED))):
        assert not await send_and_wait(log, options(), prepared())

    assert "request_id_reused" in capsys.readouterr().err


async def test_chunks_are_printed_as_they_come_and_the_answer_not_again(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    def chunk(text: str, *, last: bool) -> tuple[str, dict[str, object]]:
        return "chunks", chunk_json({"choices": [{"delta": {"content": text}}]}, last=last)

    async with answering(log, ("results", result_json("r-1")), chunk("Hi ", last=False), chunk("there", last=True)):
        assert await send_and_wait(log, options(stream=True), prepared())

    assert capsys.readouterr().out == "Hi there\n"


@pytest.mark.parametrize(
    "choices", [[1], "text", [{"delta": "text"}], [{"delta": {"content": 1}}], [{"delta": {"content": None}}]]
)
async def test_pieces_that_say_nothing_in_the_usual_place_are_passed_over(
    log: MemoryLog, capsys: pytest.CaptureFixture[str], choices: object
) -> None:
    async with answering(
        log,
        ("results", result_json("r-1")),
        ("chunks", chunk_json({"choices": choices})),
        ("chunks", chunk_json({}, last=True)),
    ):
        assert await send_and_wait(log, options(stream=True), prepared())
    assert capsys.readouterr().out == "\n"


@pytest.mark.parametrize("choices", [[1], "text", [{"message": "text"}], [{}]])
async def test_an_answer_that_says_nothing_in_the_usual_place_is_an_empty_line(
    log: MemoryLog, capsys: pytest.CaptureFixture[str], choices: object
) -> None:
    result = {**result_json("r-1"), "response": {"choices": choices}}
    async with answering(log, ("results", result)):
        assert await send_and_wait(log, options(), prepared())
    assert capsys.readouterr().out == "\n"


async def test_a_request_without_an_answer_is_given_up_after_the_time_given(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not await send_and_wait(log, options(wait_s=0.05), prepared())

    assert "no result after 0.05 s" in capsys.readouterr().err


async def test_no_more_requests_are_unanswered_than_allowed(log: MemoryLog) -> None:
    task = asyncio.create_task(
        send_and_wait(log, options(many=True, in_flight=2), *(prepared(f"r-{number}") for number in range(5)))
    )
    seen = 0
    for number in range(5):
        while len(log.records(f"{PREFIX}requests")) < min(number + 2, 5):
            await log.wait(0.05)
        seen = max(seen, len(log.records(f"{PREFIX}requests")) - number)
        write(log, "results", f"r-{number}", result_json(f"r-{number}"))

    assert await task
    assert seen == 2


async def test_unusable_input_is_reported_after_what_came_before_it_is_finished(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    async def requests() -> AsyncIterator[Prepared]:
        yield prepared("r-1")
        raise Reject("line 2: not valid JSON")

    with pytest.raises(Reject, match="line 2"):
        await Sending(MemoryPublisher(log), None, PREFIX, options(many=True)).run(requests())

    assert capsys.readouterr().out == "r-1\n"


async def test_a_request_kafka_can_never_take_fails_and_the_others_go_on(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log.fail_next("send", Poison("above the limit"))

    sending = Sending(MemoryPublisher(log), None, PREFIX, options(many=True))
    assert not await sending.run(these(prepared("r-1"), prepared("r-2")))

    captured = capsys.readouterr()
    assert captured.out == "r-2\n"
    assert "acme/r-1 was not sent: above the limit" in captured.err


async def test_an_unreachable_log_is_one_error_not_a_group(log: MemoryLog) -> None:
    log.fail_next("send", Retry("Kafka does not answer"), times=2)

    with pytest.raises(Retry, match="Kafka does not answer"):
        await Sending(MemoryPublisher(log), None, PREFIX, options(many=True)).run(
            these(prepared("r-1"), prepared("r-2"))
        )


async def test_everybody_who_waits_is_told_when_the_log_cannot_be_read_any_more(log: MemoryLog) -> None:
    follower = AnswerFollower(MemoryReader(log), PREFIX)
    async with follower:
        answer = follower.expect("acme", "r-1")
        log.fail_next("read", Retry("Kafka does not answer"), times=3)
        write(log, "results", "other", result_json("other"))
        with pytest.raises(Retry):
            await asyncio.wait_for(answer, 5)
        with pytest.raises(Retry):
            await follower.expect("acme", "r-2")


async def test_no_request_at_all_is_told_and_not_an_empty_line(
    log: MemoryLog, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Reject, match="standard input has no request"):
        await Sending(MemoryPublisher(log), None, PREFIX, options(many=True)).run(these())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "" not in captured.err.splitlines()
