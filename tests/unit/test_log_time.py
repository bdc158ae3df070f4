"""The brokers' time as a process can know it, and what rests on it where clocks disagree."""

from __future__ import annotations

import pytest

from fairlane.agents.log_time import LogTime
from fairlane.clock import ManualClock
from fairlane.errors import FairlaneError, Retry
from tests.unit.worker_doubles import NAMES, START_MS, World


def test_it_never_runs_ahead_of_the_brokers_whatever_the_wall_clock_says() -> None:
    clock = ManualClock(5_000_000)
    time = LogTime(clock)
    assert time.now_ms() == 5_000_000
    time.heard(1_000)
    assert time.now_ms() == 1_000
    clock.advance(2)
    assert time.now_ms() == 3_000
    time.heard(2_000)  # an older record tells nothing new
    assert time.now_ms() == 3_000
    time.heard(4_000)
    assert time.now_ms() == 4_000


@pytest.mark.parametrize("ahead_ms", [-60_000, 0, 60_000])
async def test_an_unacknowledged_result_is_found_in_the_log_by_a_worker_whose_clock_is_wrong(ahead_ms: int) -> None:
    world = World()
    world.log.clock = ManualClock(START_MS - ahead_ms)
    await world.assign()
    failures: list[FairlaneError] = [Retry("no answer")]
    world.publisher.forget = lambda record: failures.pop() if record.topic == NAMES.results and failures else None
    await world.run(world.dispatch())
    await world.worker.drain()
    assert len(world.results()) == len(world.attempts()) == 1
