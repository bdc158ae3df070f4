"""The ClickHouse front as a process: its bounds, its end, and what is there afterwards."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from fairlane.devstack.clickhouse_service import clickhouse_answers
from fairlane.devstack.port_choice import free_port
from fairlane.devstack.process import ChildProcess, Launch, start
from fairlane.errors import Retry
from fairlane.sinks.clickhouse import ClickHouseWriter
from fairlane.sinks.connection import ClickHouseConnection
from fairlane.sinks.migrate import migrate
from fairlane.sinks.tables import REQUESTS
from tests.contract.row_writer import request_rows


class RunningFront:
    """One front on a directory of its own; ``http`` is bound to its address."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        argv = [sys.executable, "-m", "fairlane.devstack.clickhouse_front"]
        self._argv = [*argv, "--port", str(self.port), "--path", str(directory), *options]
        self.process: ChildProcess | None = None

    async def start(self) -> ChildProcess:
        launch = Launch(self._argv, lambda: clickhouse_answers(self.url), self.port, address=self.url)
        self.process = start(launch, self.directory.parent / "front.log")
        await self.process.wait_ready(launch, "front", 60.0)
        return self.process

    async def query(self, text: str, **headers: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.post(self.url, data=text, headers=headers) as response:
            return response.status, await response.text()


@pytest.fixture
async def fronts() -> AsyncIterator[list[RunningFront]]:
    made: list[RunningFront] = []
    yield made
    for front in made:
        if front.process is not None:
            await front.process.stop(20.0)


async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path, fronts: list[RunningFront]) -> None:
    first = RunningFront(tmp_path / "data")
    fronts.append(first)
    process = await first.start()
    await first.query(
        "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 10"
    )
    token = "INSERT INTO t SETTINGS insert_deduplication_token = 'a' FORMAT CSV 1\n2\n"
    assert (await first.query(token))[0] == 200
    process.kill()
    await process.ended()
    second = RunningFront(tmp_path / "data")
    fronts.append(second)
    await second.start()
    assert await second.query("SELECT count(), sum(n) FROM t") == (200, "2\t3\n")
    assert (await second.query(token))[0] == 200
    assert await second.query("SELECT count() FROM t") == (200, "2\n"), "the token is remembered too"


async def test_an_insert_whose_rows_were_not_stored_is_never_acknowledged(
    tmp_path: Path, fronts: list[RunningFront]
) -> None:
    front = RunningFront(tmp_path / "data")
    fronts.append(front)
    await front.start()
    await front.query("CREATE TABLE t (n UInt64, CONSTRAINT small CHECK n < 3) ENGINE = MergeTree ORDER BY n")
    # The engine finds out when it stores the rows, as it does with a full disk.
    status, text = await front.query("INSERT INTO t SETTINGS max_threads = 1 FORMAT CSV 1\n2\n3\n")
    assert (status, "VIOLATED_CONSTRAINT" in text) == (500, True)
    assert await front.query("SELECT count() FROM t") == (200, "0\n")
    assert (await front.query("INSERT INTO t FORMAT CSV 1\n2\n"))[0] == 200
    assert await front.query("SELECT count() FROM t") == (200, "2\n")


async def test_a_writer_finds_the_front_again_after_a_kill(tmp_path: Path, fronts: list[RunningFront]) -> None:
    front = RunningFront(tmp_path / "data")
    fronts.append(front)
    process = await front.start()
    connection, writer = ClickHouseConnection(front.url), ClickHouseWriter(front.url, "fairlane")
    await migrate(connection, "fairlane")
    await writer.insert(REQUESTS, request_rows("a"), "t:0-0")
    process.kill()
    await process.ended()
    with pytest.raises(Retry):
        await writer.insert(REQUESTS, request_rows("b"), "t:1-1")
    await front.start()
    for token, request_id in (("t:0-0", "a"), ("t:1-1", "b"), ("t:1-1", "b")):
        await writer.insert(REQUESTS, request_rows(request_id), token)
    found = await connection.rows("SELECT request_id FROM fairlane.requests ORDER BY request_id")
    assert [row[0] for row in found] == ["a", "b"]
    await writer.close()
    await connection.close()


async def test_a_running_query_ends_before_the_front_does(tmp_path: Path, fronts: list[RunningFront]) -> None:
    front = RunningFront(tmp_path / "data")
    fronts.append(front)
    process = await front.start()
    query = asyncio.create_task(front.query("SELECT sleep(1), 'done'"))
    running = "SELECT count() FROM system.processes WHERE query LIKE '%sleep(1)%' AND query NOT LIKE '%processes%'"
    while await front.query(running) != (200, "1\n"):
        assert not query.done()
    process.signal(signal.SIGTERM)
    assert await query == (200, "0\tdone\n")
    assert await process.ended() == 0


async def test_more_queries_than_may_wait_are_turned_away(tmp_path: Path, fronts: list[RunningFront]) -> None:
    front = RunningFront(tmp_path / "data", "--concurrency", "1", "--max-waiting", "1")
    fronts.append(front)
    await front.start()
    answers = await asyncio.gather(*(front.query("SELECT sleep(0.5)") for _ in range(4)))
    assert sorted(status for status, _ in answers) == [200, 200, 503, 503]
    assert any("TOO_MANY_SIMULTANEOUS_QUERIES" in text for _, text in answers)


async def test_bodies_and_answers_have_a_limit(tmp_path: Path, fronts: list[RunningFront]) -> None:
    front = RunningFront(tmp_path / "data", "--max-body-bytes", "1000", "--max-result-bytes", "100000")
    fronts.append(front)
    await front.start()
    status, text = await front.query("SELECT 1 --" + "x" * 2000)
    assert (status, "larger than 1000 bytes" in text) == (413, True)
    status, text = await front.query("SELECT number FROM numbers(1000000)")
    assert "TOO_MANY_ROWS_OR_BYTES" in text
    assert (await front.query("SELECT 1")) == (200, "1\n")


async def test_pages_of_a_browser_are_refused(tmp_path: Path, fronts: list[RunningFront]) -> None:
    front = RunningFront(tmp_path / "data")
    fronts.append(front)
    await front.start()
    assert (await front.query("SELECT 1", Origin="https://example.com"))[0] == 403
    assert (await front.query("SELECT 1", Host="example.com"))[0] == 403
    assert (await front.query("SELECT 1", Origin="http://localhost:3000"))[0] == 200


async def test_a_directory_belongs_to_one_process(tmp_path: Path, fronts: list[RunningFront]) -> None:
    front = RunningFront(tmp_path / "data")
    fronts.append(front)
    await front.start()
    other = RunningFront(tmp_path / "data")
    launch = Launch(other._argv, lambda: clickhouse_answers(other.url), other.port)
    process = start(launch, tmp_path / "other.log")
    assert await process.ended() == 1
    assert "cannot open" in (tmp_path / "other.log").read_text()
