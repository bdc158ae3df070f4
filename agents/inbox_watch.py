"""Whether what a dispatcher writes to its inbox stands there alone, and so counts.

A marker of an earlier owner that was on its way for long can arrive behind that of the present one. If the clock of
its writer was ahead by more than a session it has the higher epoch, and voids whatever the present owner dispatches
from then on, without a word to it. So no dispatch is finished before everything that stands before it is known: it
directly follows the last one that was, or what stands between them has been read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fairlane.agents.inbox_epochs import dispatch_of
from fairlane.errors import Fatal
from fairlane.ports import LogReader, Record


class _Held(NamedTuple):
    offset: int
    source: bytes
    finish: Callable[[], None]


class InboxWatch:
    """The partitions of one inbox from the markers of one epoch on; ``markers`` has their offsets."""

    def __init__(self, inbox: str, epoch: int, markers: Mapping[int, int]) -> None:
        self._inbox = inbox
        self._epoch = epoch
        self._following = {partition: offset + 1 for partition, offset in markers.items()}
        self._held: dict[int, list[_Held]] = {}
        self._closed = False

    def close(self) -> None:
        """Finish nothing any more: the pool is another's."""
        self._closed = True

    def __contains__(self, source: bytes) -> bool:
        """Whether what was made from this is held back."""
        return any(each.source == source for held in self._held.values() for each in held)

    def written(self, records: Sequence[Record], source: bytes, finish: Callable[[], None]) -> None:
        """What was made from ``source`` stands in the log: finish it, or hold it back if a dispatch is among it, until
        :meth:`check` has read what is before that.
        """
        place = next(((each.partition, each.offset) for each in records if each.topic == self._inbox), None)
        if place is None:
            finish()
            return
        partition, offset = place
        if partition not in self._held and offset <= self._following.get(partition, 0):
            self._following[partition] = max(offset + 1, self._following.get(partition, 0))
            finish()
            return
        self._held.setdefault(partition, []).append(_Held(offset, source, finish))

    async def check(self, reader: LogReader) -> None:
        """Finish what was held back. Raises Retry, or Fatal where somebody else's higher epoch stands there: only a
        takeover under a higher one still makes dispatches count.
        """
        for partition in list(self._held):
            # As it is now: while the log is read more may come, which is for the next time.
            held = list(self._held[partition])
            end = max(each.offset for each in held) + 1
            starts, ends = {partition: self._following.get(partition, 0)}, {partition: end}
            async for batch in reader.read(self._inbox, starts, ends):
                for record in batch:
                    dispatch = dispatch_of(record)
                    if dispatch is not None and dispatch.epoch > self._epoch:
                        raise Fatal(
                            f"{self._inbox}/{partition}/{record.offset} has epoch {dispatch.epoch} behind our "
                            f"{self._epoch}: the clocks of dispatchers differ; taking the pool over anew"
                        )
            if self._closed:
                return
            self._following[partition] = end
            left = [each for each in self._held.pop(partition) if each.offset >= end]
            if left:
                self._held[partition] = left
            for each in held:
                each.finish()
