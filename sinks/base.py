"""One partition's way from records to batches: by size, by age, and after a takeover by the intended range."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fairlane.sinks.ranges import IntendedRange

Row = tuple[Any, ...]
"""The values of one row in the order of the table's columns."""


class Entry(NamedTuple):
    """What became of one record. ``row`` is None where it is skipped.

    ``unless_present`` is the (tenant, request) of a row that is only wanted if the table has none of it.
    """

    offset: int
    row: Row | None
    unless_present: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The entries of one range, to be inserted as one block under one token."""

    range: IntendedRange
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class PartitionBuffer:
    """Entries of one partition in order, on their way into batches. Time is passed in, in seconds.

    A batch once taken is given again until :meth:`finish`: its boundaries may already be committed. ``intended``
    is the range a predecessor committed to; it becomes the first batch exactly, however long it takes
    to arrive, unless the log no longer holds it.
    """

    base: int
    """Everything below is in the table or skipped: the offset to commit."""
    batch_rows: int
    batch_age_s: float
    intended: IntendedRange | None = None
    _entries: list[Entry] = field(default_factory=list)
    _arrived: list[tuple[int, float]] = field(default_factory=list)
    _taken: Batch | None = None

    def __len__(self) -> int:
        """Entries held, taken or not."""
        return len(self._entries)

    @property
    def restoring(self) -> bool:
        """Whether it waits for the rest of the intended range."""
        return self.intended is not None and self._taken is None

    @property
    def following(self) -> int:
        """The lowest offset that may be added."""
        return self._entries[-1].offset + 1 if self._entries else self.base

    @property
    def waiting_since(self) -> float:
        """When the oldest entry arrived; infinity if there is none."""
        return self._arrived[0][1] if self._arrived else math.inf

    def add(self, entries: Iterable[Entry], now: float) -> None:
        """Append entries that arrived at ``now``; offsets must rise."""
        before = len(self._entries)
        self._entries.extend(entries)
        if len(self._entries) > before:
            self._arrived.append((self._entries[-1].offset, now))
        if self.intended is not None and self._entries and not self._may_still_complete(self.intended):
            self.intended = None

    def due(self, now: float, *, everything: bool = False) -> bool:
        """Whether :meth:`take` would give a batch."""
        if self._taken is not None:
            return True
        if not self._entries:
            return False
        if self.intended is not None:
            return self._entries[-1].offset >= self.intended.last
        return everything or len(self._entries) >= self.batch_rows or now - self.waiting_since >= self.batch_age_s

    def take(self, now: float, *, everything: bool = False) -> Batch | None:
        """The next batch if one is due; the same one until it is finished."""
        if self._taken is None and self.due(now, everything=everything):
            if self.intended is not None:
                chosen = tuple(entry for entry in self._entries if entry.offset <= self.intended.last)
                self._taken = Batch(self.intended, chosen)
            else:
                chosen = tuple(self._entries[: self.batch_rows])
                self._taken = Batch(IntendedRange(chosen[0].offset, chosen[-1].offset), chosen)
        return self._taken

    def finish(self) -> None:
        """The taken batch is in the table: go on behind it."""
        assert self._taken is not None
        self.base = self._taken.range.last + 1
        del self._entries[: len(self._taken.entries)]
        self._arrived = [(last, at) for last, at in self._arrived if last >= self.base]
        self._taken = None
        self.intended = None

    def _may_still_complete(self, intended: IntendedRange) -> bool:
        """False where the log was cut behind the range, or is another log than the one it was noted for."""
        return intended.first <= self._entries[0].offset <= intended.last
