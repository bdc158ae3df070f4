"""What becomes of a write whose acknowledgements do not come: the writer is cancelled, or the publisher stops."""

from __future__ import annotations

import asyncio

import pytest

from fairlane.adapters.memory_log import MemoryReader
from fairlane.agents.effect_writer import EffectWriter
from fairlane.errors import Fatal, Poison, Retry
from fairlane.ports import Outgoing, Record
from tests.unit.worker_doubles import NAMES, World

EFFECTS = [Outgoing(NAMES.attempts, b"a", b"1"), Outgoing(NAMES.results, b"a", b"2")]


class Acknowledging:
    """A publisher that acknowledges when told to."""

    def __init__(self) -> None:
        self.acks: list[asyncio.Future[Record]] = []

    def send(self, record: Outgoing) -> asyncio.Future[Record]:
        self.acks.append(asyncio.get_running_loop().create_future())
        return self.acks[-1]

    async def partitions(self, topic: str) -> int:
        return 1

    async def flush(self) -> None:
        return None


@pytest.fixture
def publisher() -> Acknowledging:
    return Acknowledging()


@pytest.fixture
def writer(publisher: Acknowledging) -> EffectWriter:
    world = World()
    return EffectWriter(publisher, MemoryReader(world.log), world.clock, lease_ok=lambda: True, held=lambda: None)


async def begun(writer: EffectWriter) -> asyncio.Task[list[Outgoing]]:
    writing = asyncio.create_task(writer.write(EFFECTS))
    await asyncio.sleep(0)
    return writing


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_write_ends_when_all_is_acknowledged_in_any_order(
    writer: EffectWriter, publisher: Acknowledging, order: tuple[int, int]
) -> None:
    writing = await begun(writer)
    for number in order:
        assert not writing.done()
        publisher.acks[number].set_result(Record("t", 0, 0, 0, None, None))
        await asyncio.sleep(0)
    assert await writing == []


@pytest.mark.parametrize("acknowledged", [0, 1])
async def test_a_cancelled_write_waits_for_none_of_its_acknowledgements(
    writer: EffectWriter, publisher: Acknowledging, acknowledged: int
) -> None:
    writing = await begun(writer)
    for ack in publisher.acks[:acknowledged]:
        ack.set_result(Record("t", 0, 0, 0, None, None))
        await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert all(ack.done() for ack in publisher.acks)


@pytest.mark.parametrize("stopped", [0, 1])
async def test_a_publisher_that_stops_under_a_write_stops_the_process(
    writer: EffectWriter, publisher: Acknowledging, stopped: int
) -> None:
    writing = await begun(writer)
    publisher.acks[stopped].cancel()
    publisher.acks[1 - stopped].set_result(Record("t", 0, 0, 0, None, None))
    with pytest.raises(Fatal, match="stopped"):
        await writing


@pytest.mark.parametrize("other", [Retry("no answer"), Poison("too large")])
async def test_what_stops_the_process_goes_before_every_other_failure(
    writer: EffectWriter, publisher: Acknowledging, other: Exception
) -> None:
    writing = await begun(writer)
    publisher.acks[0].set_exception(other)
    publisher.acks[1].set_exception(Fatal("fenced"))
    with pytest.raises(Fatal, match="fenced"):
        await writing


async def test_what_can_never_be_written_is_handed_back(writer: EffectWriter, publisher: Acknowledging) -> None:
    writing = await begun(writer)
    publisher.acks[0].set_exception(Poison("too large"))
    publisher.acks[1].set_result(Record("t", 0, 0, 0, None, None))
    assert await writing == EFFECTS[:1]
