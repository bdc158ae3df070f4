"""The event loop of the simulation: virtual time, the order of things, and processes that die or stand still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from fairlane.devstack.simulation.virtual_loop import Process, Stuck, VirtualLoop, within


def loop_of(seed: int = 1, **changes: bool | float) -> VirtualLoop:
    return VirtualLoop(random.Random(seed), **changes)  # type: ignore[arg-type]  # each by its own type


def test_sleeping_takes_virtual_time_only() -> None:
    loop = loop_of(until_s=1e9)

    async def nap() -> float:
        await asyncio.sleep(1e6)
        return asyncio.get_running_loop().time()

    assert loop.run_until_complete(nap()) == 1e6


def test_timeouts_locks_and_gathers_of_asyncio_work_on_it() -> None:
    async def story() -> list[str]:
        told: list[str] = []
        lock = asyncio.Lock()

        async def one(name: str) -> None:
            async with lock:
                await asyncio.sleep(1)
                told.append(name)

        await asyncio.gather(one("a"), one("b"))
        try:
            async with asyncio.timeout(0.5):
                await asyncio.sleep(10)
        except TimeoutError:
            told.append("late")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 1)
        return told

    loop = loop_of()
    assert loop.run_until_complete(story()) == ["a", "b", "late"]
    assert loop.time() == 3.5


def order_of_two_processes(seed: int) -> list[str]:
    told: list[str] = []

    async def speak(name: str) -> None:
        for number in range(4):
            told.append(f"{name}{number}")
            await asyncio.sleep(0)

    async def story() -> None:
        tasks = []
        for name in "ab":
            with within(Process(name)):
                tasks.append(asyncio.create_task(speak(name)))
        await asyncio.gather(*tasks)

    loop_of(seed).run_until_complete(story())
    return told


def test_the_seed_decides_the_order_between_processes_and_never_within_one() -> None:
    orders = [order_of_two_processes(seed) for seed in range(30)]
    assert len({tuple(order) for order in orders}) > 5
    assert orders == [order_of_two_processes(seed) for seed in range(30)]
    for order in orders:
        assert [word for word in order if word[0] == "a"] == ["a0", "a1", "a2", "a3"]


def counted(act: Callable[[VirtualLoop, Process], None], until_s: float) -> list[float]:
    """Beats of a process that something happens to after three of them."""
    beats: list[float] = []
    loop, process = loop_of(until_s=100), Process("p")

    async def beat() -> None:
        try:
            while True:
                beats.append(loop.time())
                await asyncio.sleep(1)
        finally:
            beats.append(-1.0)

    async def story() -> None:
        with within(process):
            beating = asyncio.create_task(beat())
        await asyncio.sleep(2.5)
        act(loop, process)
        await asyncio.sleep(until_s)
        assert not beating.done()

    loop.run_until_complete(story())
    before_close = list(beats)
    loop.close()
    return before_close


def test_a_killed_process_runs_nothing_more_not_even_its_cleaning_up() -> None:
    assert counted(lambda loop, process: loop.kill(process), 5) == [0, 1, 2]


def test_a_frozen_process_goes_on_where_it_stood() -> None:
    def freeze(loop: VirtualLoop, process: Process) -> None:
        loop.freeze(process)
        loop.call_later(3, loop.thaw, process)

    assert counted(freeze, 4) == [0, 1, 2, 5.5, 6.5]


def test_a_fuse_kills_between_two_callbacks() -> None:
    killed: list[int] = []

    def light(loop: VirtualLoop, process: Process) -> None:
        process.fuse = process.steps + 3

        def died() -> None:
            killed.append(process.steps)
            loop.kill(process)

        process.died = died

    assert counted(light, 10) == [0, 1, 2, 3]
    assert len(killed) == 1


def test_waiting_for_what_never_comes_is_told() -> None:
    with pytest.raises(Stuck, match="nothing is scheduled"):
        loop_of().run_until_complete(asyncio.Event().wait())
    with pytest.raises(Stuck, match="virtual seconds"):
        loop_of(until_s=5).run_until_complete(asyncio.sleep(6))


def test_what_spins_without_time_passing_is_told() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - it is to spin
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="spins"):
        loop_of(steps_max=1000).run_until_complete(spin())


def test_an_exception_of_a_callback_is_kept() -> None:
    loop = loop_of()

    async def story() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)

    loop.run_until_complete(story())
    assert loop.failures == ["a callback raised ZeroDivisionError('division by zero')"]
