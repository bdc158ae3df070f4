"""What time it is at the log at least, whatever this process's wall clock says.

Records are stamped by the brokers. A process whose own clock is ahead of theirs would look for what it wrote
where nothing stands yet. The monotonic clock never jumps, so the stamp of any record seen, plus
the time since, bounds the brokers' present from below.
"""

from __future__ import annotations

from fairlane.clock import Clock


class LogTime:
    """A lower bound of the brokers' present, in milliseconds since the epoch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ms: float | None = None
        """The brokers' time less the monotonic clock's: at least this."""

    def heard(self, timestamp_ms: int) -> None:
        """A record with this stamp stands in the log now."""
        offset_ms = timestamp_ms - self._clock.monotonic() * 1000
        if self._offset_ms is None or offset_ms > self._offset_ms:
            self._offset_ms = offset_ms

    def now_ms(self) -> int:
        """The bound; before any record was seen, this process's own clock."""
        if self._offset_ms is None:
            return self._clock.now_ms()
        return int(self._offset_ms + self._clock.monotonic() * 1000)
