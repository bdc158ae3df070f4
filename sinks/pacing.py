"""How often to insert: an insert costs the same for one row as for a thousand, so few large ones are cheap."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """Keeps the share of time spent in inserts at or below ``share``, unless they are large.

    Measured with chDB 26.9 on two cores: an insert of up to a thousand rows takes 10 ms and 12 to 15 ms of CPU. With 25
    partitions twice a second that alone would be most of a core. Times in seconds.

    On a busy machine an insert may take a second, most of it waiting; rows are held back for ``longest_s`` at most.
    """

    share: float
    worthwhile_rows: int
    """Rows of an insert from which on it need not wait."""
    longest_s: float = 5.0
    _earliest: float = 0.0

    def spent(self, started: float, ended: float) -> None:
        """Inserts ran from ``started`` to ``ended``."""
        self._earliest = ended + min(self.longest_s, (ended - started) * (1 / self.share - 1))

    def may_start(self, now: float, rows_per_insert: float) -> bool:
        """Whether the next inserts may start, given how many rows they would hold on average."""
        return rows_per_insert >= self.worthwhile_rows or now >= self._earliest
