"""A process hangs when it does not answer for long; one late answer is no hang, nor is our own pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from fairlane.devstack import liveness
from fairlane.devstack.liveness import CHECKS_MIN, silence


class Clock:
    """Time that passes by sleeping only, and what is asked in it."""

    def __init__(self, answers: Callable[[float], bool]) -> None:
        self.now = 1000.0
        self.asked: list[float] = []
        self._answers = answers

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def ask(self) -> bool:
        self.asked.append(self.now)
        return self._answers(self.now - 1000.0)


async def silent_at(monkeypatch: pytest.MonkeyPatch, answers: Callable[[float], bool], timeout_s: float) -> Clock:
    clock = Clock(answers)
    monkeypatch.setattr(liveness, "time", clock)
    monkeypatch.setattr(liveness, "asyncio", clock)
    async with asyncio.timeout(10):
        await silence(clock.ask, timeout_s)
    return clock


async def test_silence_is_told_after_its_time_and_no_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = await silent_at(monkeypatch, lambda now: now < 100, 30.0)
    assert 130.0 <= clock.now - 1000.0 <= 136.0


async def test_an_answer_in_between_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = await silent_at(monkeypatch, lambda now: now in {20.0, 40.0}, 30.0)
    assert clock.now - 1000.0 >= 70.0


async def test_one_missing_answer_after_a_long_pause_of_our_own_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[bool] = []
    clock: Clock

    def answers(_now: float) -> bool:
        if not paused:
            paused.append(True)
            clock.now += 3600
        return False

    clock = Clock(answers)
    monkeypatch.setattr(liveness, "time", clock)
    monkeypatch.setattr(liveness, "asyncio", clock)
    async with asyncio.timeout(10):
        await silence(clock.ask, 30.0)
    assert len(clock.asked) == CHECKS_MIN
