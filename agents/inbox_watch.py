"""Whether what a dispatcher writes to its inbox stands there alone, and so counts.

A marker of an earlier owner that was on its way for long can arrive behind that of the present one. If the clock of
its writer was ahead by more than a session it has the higher epoch, and voids whatever the present owner dispatches
from then on, without a word to it. So no dispatch is finished before everything that stands before it is known: it
directly follows the last one that was, or what stands between them has been read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fairlane.agents.inbox_epochs import dispatch_of
from fairlane.errors import Fatal
from fairlane.ports import LogReader, Outgoing, Record


class _Held(NamedTuple):
    offset: int
    source: bytes
    finish: Callable[[], None]


class InboxWatch:
    """The partitions of one inbox from the markers of one epoch on; ``markers`` has their offsets."""

    def __init__(self, inbox: str, epoch: int, markers: Mapping[int, int]) -> None:
        self._inbox = inbox
        self._epoch = epoch
        self._known = {partition: offset + 1 for partition, offset in markers.items()}
        """By partition the offset below which everything is known."""
        self._ends: dict[int, int] = {}
        """Where something else stands before ours: the offset behind our last one."""
        self._held: dict[int, list[_Held]] = {}
        self._closed = False

    def close(self) -> None:
        """Finish nothing any more: the pool is another's."""
        self._closed = True

    def __contains__(self, source: bytes) -> bool:
        """Whether what was made from this is held back."""
        return any(each.source == source for held in self._held.values() for each in held)

    def sent(self, outgoing: Outgoing, ack: asyncio.Future[Record]) -> asyncio.Future[Record] | None:
        """The acknowledgement, if this is a dispatch. Those of a partition mostly come in order."""
        if outgoing.topic != self._inbox:
            return None
        ack.add_done_callback(self._stands)
        return ack

    def _stands(self, dispatch: asyncio.Future[Record]) -> None:
        if dispatch.cancelled() or dispatch.exception() is not None:
            return
        record = dispatch.result()
        known = self._known.get(record.partition, 0)
        if record.offset == known:
            self._known[record.partition] = known + 1
        elif record.offset > known:
            # The largest: acknowledgements of one partition may be told in another order.
            self._ends[record.partition] = max(record.offset + 1, self._ends.get(record.partition, 0))

    def written(self, dispatch: asyncio.Future[Record] | None, source: bytes, finish: Callable[[], None]) -> None:
        """What was made from ``source`` stands in the log: finish it, or hold it back if it is a dispatch, until
        :meth:`check` has read what is before that.
        """
        if dispatch is None or (record := dispatch.result()).offset < self._known.get(record.partition, 0):
            finish()
        else:
            self._held.setdefault(record.partition, []).append(_Held(record.offset, source, finish))

    async def check(self, reader: LogReader) -> None:
        """Finish what was held back. Raises Retry, or Fatal where somebody else's higher epoch stands there: only a
        takeover under a higher one still makes dispatches count.
        """
        for partition, end in list(self._ends.items()):
            begin = self._known.get(partition, 0)
            async for batch in reader.read(self._inbox, {partition: begin}, {partition: end}):
                for record in batch:
                    dispatch = dispatch_of(record)
                    if dispatch is not None and dispatch.epoch > self._epoch:
                        raise Fatal(
                            f"{self._inbox}/{partition}/{record.offset} has epoch {dispatch.epoch} behind our "
                            f"{self._epoch}: the clocks of dispatchers differ; taking the pool over anew"
                        )
            if self._closed:
                return
            self._known[partition] = end
            if self._ends[partition] == end:
                # Else more of ours came while this was read, and was not known to follow it.
                del self._ends[partition]
            held = self._held.pop(partition, [])
            if left := [each for each in held if each.offset >= end]:
                self._held[partition] = left
            for each in held:
                if each.offset < end:
                    each.finish()
