"""Records that belong together: when they are acknowledged, and when one is not."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from fairlane.agents.acknowledgements import Acknowledgement, when_acknowledged
from fairlane.errors import Poison
from fairlane.ports import Record

RECORD = Record("t", 0, 0, 0, b"k", b"v")


def waiting(count: int) -> tuple[list[Acknowledgement], set[Acknowledgement], list[BaseException | None]]:
    told: list[BaseException | None] = []
    pending: set[Acknowledgement] = set()
    acks: list[Acknowledgement] = [asyncio.get_running_loop().create_future() for _ in range(count)]
    when_acknowledged(acks, pending, told.append)
    return acks, pending, told


async def turn() -> None:
    await asyncio.sleep(0)


async def test_it_is_told_once_after_the_last_one_in_whatever_order_they_come() -> None:
    acks, pending, told = waiting(3)
    for ack in reversed(acks):
        assert told == []
        ack.set_result(RECORD)
        await turn()
    assert (told, pending) == ([None], set())


async def test_the_first_failure_is_told_at_once_and_what_ends_later_is_not() -> None:
    acks, pending, told = waiting(3)
    failure = Poison("too large")
    acks[1].set_exception(failure)
    await turn()
    assert told == [failure]
    assert pending == {acks[0], acks[2]}
    acks[0].set_result(RECORD)
    acks[2].set_exception(Poison("another"))
    await turn()
    assert (told, pending) == ([failure], set())


async def test_a_failure_that_is_not_told_is_not_reported_as_forgotten() -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    acks, _, told = waiting(2)
    for ack in acks:
        ack.set_exception(Poison("too large"))
    await turn()
    assert len(told) == 1
    del acks, ack, told
    gc.collect()
    assert reported == []


async def test_a_cancelled_acknowledgement_is_a_failure() -> None:
    acks, _, told = waiting(2)
    acks[0].cancel()
    await turn()
    assert [type(failure) for failure in told] == [asyncio.CancelledError]
