"""How much a process has written that is not acknowledged yet, so that it writes no faster than the log takes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairlane.ports import Outgoing

UNACKNOWLEDGED_BYTES_MAX = 16 * 1_048_576
"""Far below a publisher's buffer, which refuses what it has no room for."""
HEADERS_BYTES = 1_024
"""What a record's key and headers count for; they are mostly smaller."""


@dataclass(slots=True)
class OnItsWay:
    """Bytes written and not acknowledged, of everything in a process that shares a publisher."""

    size: int = 0

    def full(self) -> bool:
        """Whether to wait for acknowledgements before more is written."""
        return self.size >= UNACKNOWLEDGED_BYTES_MAX

    @staticmethod
    def size_of(records: Iterable[Outgoing]) -> int:
        """What these count for."""
        return sum(len(record.value or b"") + HEADERS_BYTES for record in records)
