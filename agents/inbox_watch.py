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


class _Run(NamedTuple):
    """Offsets of ours that follow each other; ``end`` is exclusive."""

    begin: int
    end: int


class _Held(NamedTuple):
    offset: int
    finish: Callable[[], None]


class InboxWatch:
    """The partitions of one inbox from the markers of one epoch on; ``markers`` has their offsets."""

    def __init__(self, inbox: str, epoch: int, markers: Mapping[int, int]) -> None:
        self._inbox = inbox
        self._epoch = epoch
        self._known = {partition: offset + 1 for partition, offset in markers.items()}
        """By partition the offset below which everything is known."""
        self._runs: dict[int, _Run] = {}
        """Our last ones, where something else stands before them. Only that has to be read, whatever follows."""
        self._held: dict[int, dict[bytes, _Held]] = {}
        self._checking = asyncio.Lock()
        self._closed = False

    def close(self) -> None:
        """Finish nothing any more: the pool is another's."""
        self._closed = True

    def __contains__(self, source: bytes) -> bool:
        """Whether what was made from this is held back."""
        return any(source in held for held in self._held.values())

    def sent(self, outgoing: Outgoing, ack: asyncio.Future[Record]) -> asyncio.Future[Record] | None:
        """The acknowledgement, if this is a dispatch; call it before anybody else waits for that."""
        if outgoing.topic != self._inbox:
            return None
        ack.add_done_callback(self._stands)
        return ack

    def _stands(self, dispatch: asyncio.Future[Record]) -> None:
        if dispatch.cancelled() or dispatch.exception() is not None:
            return
        partition, offset = dispatch.result().partition, dispatch.result().offset
        known = self._known.get(partition, 0)
        if offset == known:
            self._learn(partition, known + 1)
        elif offset > known:
            self._runs[partition] = _with(self._runs.get(partition), offset)

    def written(self, dispatch: asyncio.Future[Record] | None, source: bytes, finish: Callable[[], None]) -> None:
        """What was made from ``source`` stands in the log: finish it, or hold it back if it is a dispatch, until
        what is before that is known.
        """
        if dispatch is None or (record := dispatch.result()).offset < self._known.get(record.partition, 0):
            finish()
        else:
            self._held.setdefault(record.partition, {})[source] = _Held(record.offset, finish)

    async def check(self, reader: LogReader) -> None:
        """Finish what was held back. Raises Retry, or Fatal where somebody else's higher epoch stands there: only a
        takeover under a higher one still makes dispatches count.
        """
        async with self._checking:
            for partition in list(self._runs):
                if (run := self._runs.get(partition)) is not None:
                    await self._read(reader, partition, run.begin)
                    if self._closed:
                        return
                    self._learn(partition, run.begin)

    async def _read(self, reader: LogReader, partition: int, end: int) -> None:
        async for batch in reader.read(self._inbox, {partition: self._known.get(partition, 0)}, {partition: end}):
            for record in batch:
                dispatch = dispatch_of(record)
                if dispatch is not None and dispatch.epoch > self._epoch and not self._closed:
                    raise Fatal(
                        f"{self._inbox}/{partition}/{record.offset} has epoch {dispatch.epoch} behind our "
                        f"{self._epoch}: the pool is another's, or the clocks of dispatchers differ; "
                        "taking over anew what is still ours"
                    )

    def _learn(self, partition: int, end: int) -> None:
        """Everything below ``end`` is known by now."""
        known, run = max(self._known.get(partition, 0), end), self._runs.get(partition)
        if run is not None and run.begin <= known:
            known = max(known, run.end)
            del self._runs[partition]
        self._known[partition] = known
        if held := self._held.pop(partition, None):
            if left := {source: each for source, each in held.items() if each.offset >= known}:
                self._held[partition] = left
            for each in held.values():
                if each.offset < known and not self._closed:
                    each.finish()


def _with(run: _Run | None, offset: int) -> _Run:
    """The run with one more. Acknowledgements of a partition mostly come in order; what joins no run is read."""
    if run is None or offset > run.end:
        return _Run(offset, offset + 1)
    if offset == run.end:
        return _Run(run.begin, offset + 1)
    return _Run(offset, run.end) if offset == run.begin - 1 else run
