"""A process that is killed and started again under its name goes on where it was, and nobody else notices."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fairlane.policy.offsets import decode_metadata
from tests.contract.engine_behaviour import committed, write
from tests.integration.test_engines_on_kafka import LoopWorld

ROOT = Path(__file__).parent.parent.parent
SESSION_TIMEOUT_MS = 60_000
"""Longer than the test may take: whoever waits for it fails."""
PATIENCE_S = 40.0


class Member:
    """A process and what it has told so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.story: list[str] = []
        self._told = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.story.append(line.decode().strip())
            self._told.set()

    async def until(self, condition: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self.story):
                self._told.clear()
                await self._told.wait()

    def partitions(self) -> set[int]:
        return {int(line.split()[1]) for line in self.story if line.startswith("took")}

    async def end(self, *, kill: bool = False) -> None:
        if self.process.returncode is None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
        await self.process.wait()
        await self._listening


@pytest.fixture
async def world(kafka_bootstrap: str) -> AsyncIterator[LoopWorld]:
    async with LoopWorld(kafka_bootstrap) as world:
        yield world


async def start(world: LoopWorld, group: str, topic: str, instance: str) -> Member:
    return Member(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.member_process",
            world.bootstrap,
            group,
            topic,
            instance,
            str(SESSION_TIMEOUT_MS),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
    )


async def test_a_killed_process_resumes_under_its_name_without_a_rebalance(world: LoopWorld) -> None:
    topic, group = await world.topic(4), world.name("g")
    members = [await start(world, group, topic, "one")]
    try:
        one = members[0]
        await one.until(lambda story: len(story) == 4)
        two = await start(world, group, topic, "two")
        members.append(two)
        await two.until(lambda story: len(story) == 2)
        await one.until(lambda story: sum(line.startswith("lost") for line in story) == 2)
        mine = {0, 1, 2, 3} - two.partitions()
        for partition in range(4):
            await write(world, topic, 10, partition)
        # Everything read, and what is finished committed, before the kill.
        await committed(
            world,
            group,
            topic,
            lambda at: (
                len(at) == 4
                and all(decode_metadata(each.offset, each.metadata)[0] == {2, 4, 6, 8} for each in at.values())
            ),
        )
        told_by_two = list(two.story)
        await one.end(kill=True)
        heir = await start(world, group, topic, "one")
        members.append(heir)
        await heir.until(lambda story: sum(line.startswith("record") for line in story) == 10)
        assert heir.partitions() == mine
        again = Counter(line for line in heir.story if line.startswith("record"))
        assert again == Counter(f"record {partition} {offset}" for partition in mine for offset in range(1, 10, 2))
        assert two.story == told_by_two
    finally:
        for member in members:
            await member.end()
