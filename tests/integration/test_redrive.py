"""Dead letters are sent again once their cause is mended: each is answered once, whatever dies on the way."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlane.adapters.kafka_reader import KafkaReader
from tests.integration.running_chain import Chain, request

COUNT = 60
KILLS = 4


@pytest.fixture
def chain(kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path: Path) -> Iterator[Chain]:
    chain = Chain(kafka_bootstrap, redis_url, clickhouse_url, tmp_path)
    chain.extra_env = {"FAIRLANE_MAX_REQUEST_BYTES": "1000"}
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


async def test_a_redrive_after_the_fix_that_is_killed_and_repeated_delivers_each_request_once(chain: Chain) -> None:
    # More than four times the limit, so that nobody looks for ids in them.
    documents = [request(f"large-{n}", body={"user": "x" * 5000}) for n in range(COUNT)]
    await chain.produce(documents)
    letters = await chain.read("dead-letters", COUNT)
    assert Counter((letter["error"]["code"], letter["request_id"]) for letter in letters) == {
        ("too_large", None): COUNT
    }
    await asyncio.to_thread(chain.down)
    chain.extra_env = {}
    await asyncio.to_thread(chain.up)

    reader = KafkaReader(chain.kafka)
    await reader.start()
    try:
        for _ in range(KILLS):
            await _kill_a_redrive(chain, reader)
    finally:
        await reader.stop()
    rest = await asyncio.to_thread(chain.run, "dlq", "redrive", "--all")
    assert not rest.stdout.startswith("0 "), "the redrives were not killed in their middle"
    again = await asyncio.to_thread(chain.run, "dlq", "redrive", "--all")
    assert again.stdout.startswith("0 redriven")

    written = await chain.read("results", COUNT)
    # A request that was sent twice may be told its answer twice, the second time as a replay that costs nothing.
    first = {result["request_id"]: result for result in written if not result["replayed"]}
    assert sorted(first) == sorted(result["request_id"] for result in written if not result["replayed"])
    assert {name: result["status"] for name, result in first.items()} == {
        document["request_id"]: "succeeded" for document in documents
    }
    for replay in (result for result in written if result["replayed"]):
        assert (replay["response"], replay["cost"]["nano_usd"]) == (first[replay["request_id"]]["response"], 0)
    calls = Counter(attempt["request_id"] for attempt in await chain.read("attempts", COUNT))
    assert set(calls.values()) == {1}
    spent = sum(result["cost"]["nano_usd"] for result in first.values())
    async with asyncio.timeout(60):
        while len(rows := await chain.sql("SELECT request_id, cost_nano_usd FROM requests")) < COUNT:
            pass
    assert {row["request_id"]: int(row["cost_nano_usd"]) for row in rows} == {
        name: result["cost"]["nano_usd"] for name, result in first.items()
    }
    assert len(rows) == COUNT
    async with asyncio.timeout(30):
        while [usage.spent_nano_usd for usage in await chain.usage(["acme"])] != [spent]:
            pass


async def _kill_a_redrive(chain: Chain, reader: KafkaReader) -> None:
    """kill -9 of the command once it has sent something."""
    topic = chain.prefix + "requests"
    before = await reader.ends(topic)
    argv = [sys.executable, "-m", "fairlane", "dlq", "redrive", "--all"]
    command = await asyncio.create_subprocess_exec(*argv, env=chain.env, stdout=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(60):
        while await reader.ends(topic) == before:
            assert command.returncode is None, "the command ended before it sent anything"
    command.send_signal(signal.SIGKILL)
    assert await command.wait() == -signal.SIGKILL
