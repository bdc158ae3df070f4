"""Time as a dependency. Wall time stamps events; monotonic time measures durations and leases."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks, and nothing else, so that tests and simulations can own time."""

    def now_ms(self) -> int:
        """Wall time: milliseconds since the epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back, goes on while the process is stopped."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """``CLOCK_MONOTONIC`` in seconds."""
        return time.monotonic()


class ManualClock:
    """A clock that moves when told to."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 0.0

    def now_ms(self) -> int:
        """Wall time in milliseconds since the epoch."""
        return self._now_ms

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now_ms += round(seconds * 1000)
        self._monotonic += seconds
