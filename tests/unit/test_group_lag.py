"""How far groups are behind, on a log in memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks import group_lag
from benchmarks.chain import FELL_BEHIND_S
from benchmarks.group_lag import POOLS, Behind, GroupLag, Look, fell_behind, left, looking
from fairlane.adapters.memory_log import MemoryLog, MemoryReader
from fairlane.errors import Fatal, Retry
from fairlane.ports import Outgoing, Position, TopicPartition
from fairlane.settings import Settings
from fairlane.streams.topology import SINKS, STAGES

SETTINGS = replace(Settings(), topic_prefix="t.", group_prefix="g.")


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topics("t.", POOLS)
    return log


@pytest.fixture
def lag(log: MemoryLog) -> GroupLag:
    return GroupLag(SETTINGS, MemoryReader(log))


def answer(log: MemoryLog, count: int) -> None:
    for _ in range(count):
        log.append(Outgoing("t.results", b"a", b"{}", partition=0))


async def test_a_group_is_behind_by_the_records_after_what_it_committed(log: MemoryLog, lag: GroupLag) -> None:
    answer(log, 5)
    log.group(SINKS.group("g.")).positions[TopicPartition("t.results", 0)] = Position(3)
    found = await lag.look()
    assert found["sinks"] == Behind(records=2, appended=5)
    assert found["settle"] == Behind(records=5, appended=5)
    assert found["gate"] == Behind(records=0, appended=0)


async def test_what_is_left_is_known_at_once_where_nothing_is_and_else_when_time_is_up(
    log: MemoryLog, lag: GroupLag
) -> None:
    assert await left(lag, 60.0) == 0
    answer(log, 5)
    assert await left(lag, 0.0) == 10  # of the sinks and of settle
    log.fail_next("read", Retry("the group moves", after=0.1))
    assert await left(lag, 0.0) == math.inf


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - polls what has no event
            await asyncio.sleep(0.001)


async def test_looks_go_on_over_one_that_failed(log: MemoryLog, lag: GroupLag, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_lag, "EVERY_S", 0.001)
    log.fail_next("read", Retry("the group moves", after=0.1))
    async with looking(lag) as looks:
        await until(lambda: len(looks) >= 3)
    assert looks[0].at < looks[1].at < looks[2].at


async def test_what_ends_the_looks_is_raised_and_what_ends_the_load_comes_first(log: MemoryLog, lag: GroupLag) -> None:
    log.fail_next("read", Fatal("no such topic"))

    async def look_until_it_fails(failure: Fatal | None = None) -> None:
        log.fail_next("read", Fatal("no such topic"))
        async with looking(lag):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if failure is not None:
                raise failure

    with pytest.raises(Fatal, match="no such topic"):
        await look_until_it_fails()
    with pytest.raises(Fatal, match="the load"):
        await look_until_it_fails(Fatal("the load"))


def looks_at(sinks_do: float, *, every: float = 1.1) -> list[Look]:
    """All groups get 1,000 records a second for a minute from second 1,000 of the clock; the sinks leave a share."""

    def look(at: float) -> Look:
        appended = int(1000 * min(60.0, max(0.0, at - 1000)))
        groups = {spec.name: Behind(300, appended) for spec in STAGES}
        return Look(at, groups | {"sinks": Behind(int(appended * (1 - sinks_do)), appended)})

    return [look(990 + n * every) for n in range(int(90 / every))]


def test_a_group_that_does_its_work_does_not_fall_behind_and_one_that_leaves_a_tenth_is_told() -> None:
    assert set(fell_behind(looks_at(1.0), 1000.0, 60.0).values()) == {0.0}
    found = fell_behind(looks_at(0.9), 1000.0, 60.0)
    of_sinks = found.pop("sinks")
    assert of_sinks == pytest.approx(2.0, abs=0.1)
    assert of_sinks > FELL_BEHIND_S
    assert set(found.values()) == {0.0}
    assert 0 < fell_behind(looks_at(0.97), 1000.0, 60.0)["sinks"] < FELL_BEHIND_S


def test_groups_that_could_hardly_be_looked_at_or_got_nothing_were_not_shown_to_keep_up() -> None:
    assert set(fell_behind(looks_at(1.0, every=10.0), 1000.0, 60.0).values()) == {math.inf}
    assert set(fell_behind([], 1000.0, 60.0).values()) == {math.inf}
    idle = [Look(at=look.at, groups=dict.fromkeys(look.groups, Behind(0, 7))) for look in looks_at(1.0)]
    assert set(fell_behind(idle, 1000.0, 60.0).values()) == {math.inf}
