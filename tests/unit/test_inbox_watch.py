"""Dispatches are finished once everything that stands before them in the inbox is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from fairlane.agents.inbox_watch import InboxWatch
from fairlane.errors import Fatal, Retry
from fairlane.ports import Outgoing, Record
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import DISPATCH
from fairlane.schemas.job import Dispatch
from tests.stage_harness import NAMES, World

INBOX = NAMES.inbox("sim")


class Watched:
    """A watch of epoch 7 over one partition whose marker stands before everything, and what it has finished."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.watch = InboxWatch(INBOX, 7, {0: -1})
        self.finished: list[int] = []

    def append(self, epoch: int | None = None) -> Record:
        """A record of somebody else, which nobody tells of."""
        headers = () if epoch is None else ((DISPATCH, encode(Dispatch(epoch=epoch, dispatched_ms=0))),)
        return self.world.log.append(Outgoing(INBOX, b"k", None, headers, 0))

    async def dispatch(self) -> Record:
        """One of ours, acknowledged."""
        record = self.append(7)
        await self.acknowledge(record)
        return record

    async def acknowledge(self, record: Record) -> None:
        """Tell of one of ours."""
        ack: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        dispatch = self.watch.sent(Outgoing(INBOX, b"k", b"", ()), ack)
        ack.set_result(record)
        await asyncio.sleep(0)
        self.watch.written(dispatch, b"%d" % record.offset, partial(self.finished.append, record.offset))

    async def check(self, reader: Any = None) -> None:
        """Read what is not known."""
        await self.watch.check(reader or self.world.reader)


class SlowReader:
    """Lets something happen while a range is read, and remembers the ranges."""

    def __init__(self, world: World, meanwhile: Callable[[], object]) -> None:
        self._world = world
        self._meanwhile = meanwhile
        self.ranges: list[tuple[int, int]] = []

    async def read(
        self,
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None = None,
        *,
        committed_only: bool = False,
    ) -> AsyncIterator[Sequence[Record]]:
        """See the port."""
        assert ends is not None
        self.ranges.append((starts[0], ends[0]))
        happened = self._meanwhile()
        if asyncio.iscoroutine(happened):
            await happened
        async for batch in self._world.reader.read(topic, starts, ends, committed_only=committed_only):
            yield batch


@pytest.fixture
def watched() -> Watched:
    return Watched(World())


async def test_dispatches_whose_decisions_are_acknowledged_in_another_order_ask_the_log_nothing() -> None:
    watch = InboxWatch("inbox", 7, {0: 4})
    finished: list[bytes] = []
    acks = []
    for offset in (5, 6):
        ack: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        acks.append(watch.sent(Outgoing("inbox", b"k", b"", ()), ack))
        ack.set_result(Record("inbox", 0, offset, 0, b"k", b""))
    await asyncio.sleep(0)
    for source, dispatch in ((b"second", acks[1]), (b"first", acks[0])):
        watch.written(dispatch, source, partial(finished.append, source))
    assert finished == [b"second", b"first"]
    reader = SlowReader(World(), lambda: None)
    await watch.check(reader)  # type: ignore[arg-type]  # the one method that would be asked
    assert reader.ranges == []


async def test_dispatches_that_are_acknowledged_in_another_order_are_all_finished_without_reading(
    watched: Watched,
) -> None:
    for record in reversed([watched.append(7) for _ in range(4)]):
        assert watched.finished == []
        await watched.acknowledge(record)
    assert sorted(watched.finished) == [0, 1, 2, 3]


async def test_only_what_stands_before_ours_is_read_however_many_follow(watched: Watched) -> None:
    await watched.dispatch()
    watched.append()
    watched.append(6)
    await watched.dispatch()
    reader = SlowReader(watched.world, watched.dispatch)
    await watched.check(reader)
    assert watched.finished == [0, 3, 4]
    await watched.dispatch()
    await watched.check(reader)
    assert (watched.finished, reader.ranges) == ([0, 3, 4, 5], [(1, 3)])


async def test_what_stands_behind_another_gap_waits_for_the_next_check(watched: Watched) -> None:
    watched.append()
    await watched.dispatch()

    async def another_gap() -> None:
        watched.append()
        await watched.dispatch()

    reader = SlowReader(watched.world, another_gap)
    await watched.check(reader)
    assert watched.finished == []
    await watched.check()
    assert watched.finished == [1, 3]
    await watched.check()
    assert watched.finished == [1, 3]


async def test_two_checks_at_once_read_once(watched: Watched) -> None:
    watched.append()
    await watched.dispatch()
    reader = SlowReader(watched.world, lambda: asyncio.sleep(0.01))
    await asyncio.gather(*[watched.check(reader) for _ in range(3)])
    assert (watched.finished, reader.ranges) == ([1], [(0, 1)])


async def test_nothing_is_finished_and_nobody_blamed_when_the_pool_is_lost_while_it_is_read(watched: Watched) -> None:
    watched.append(8)
    await watched.dispatch()
    await watched.check(SlowReader(watched.world, watched.watch.close))
    assert watched.finished == []


async def test_what_is_held_back_is_known_by_its_source_until_it_is_finished(watched: Watched) -> None:
    watched.append()
    await watched.dispatch()
    assert (b"1" in watched.watch, b"0" in watched.watch) == (True, False)
    await watched.check()
    assert b"1" not in watched.watch


async def test_a_log_that_does_not_answer_finishes_nothing_and_is_asked_again(watched: Watched) -> None:
    watched.append()
    await watched.dispatch()
    watched.world.log.fail_next("read", Retry("away"))
    with pytest.raises(Retry):
        await watched.check()
    assert watched.finished == []
    await watched.check()
    assert watched.finished == [1]


async def test_a_higher_epoch_before_one_of_ours_is_told(watched: Watched) -> None:
    watched.append(8)
    await watched.dispatch()
    with pytest.raises(Fatal, match="epoch 8 behind our 7"):
        await watched.check()
    assert watched.finished == []
