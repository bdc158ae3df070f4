"""Which inbox records a dispatcher wrote, and which of those are void: of one that had lost its pool when they arrived.

A new dispatcher writes a marker with its epoch into every inbox partition before anything else. Any
record behind it with a lower epoch is void. The rule looks at what stands *before* a record, so one
that is delivered again is judged by its place and not by what was read since.
"""

from __future__ import annotations

from bisect import bisect_right

from fairlane.ports import Record
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.headers import DISPATCH, header
from fairlane.schemas.job import Dispatch
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

EPOCH_AHEAD_MS = 366 * 86_400_000
"""Epochs are milliseconds. One that is further ahead of its record than any clock was written by nobody of us: every
later one would have to be higher still."""


def dispatch_of(record: Record) -> Dispatch | None:
    """The dispatcher's header of an inbox record; None where there is none that a dispatcher can have written."""
    raw = header(record.headers, DISPATCH)
    if raw is None:
        return None
    try:
        dispatch = decode(Dispatch, raw)
    except DecodeError as failure:
        _log.warning("dispatch_header_unreadable", partition=record.partition, offset=record.offset, error=str(failure))
        return None
    if dispatch.epoch > record.timestamp_ms + EPOCH_AHEAD_MS:
        _log.warning("dispatch_epoch_impossible", partition=record.partition, offset=record.offset)
        return None
    return dispatch


class EpochFence:
    """The epochs of one inbox partition. ``base`` is the highest epoch before everything that is read."""

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._offsets: list[int] = []
        self._epochs: list[int] = []

    def admits(self, offset: int, epoch: int) -> bool:
        """Whether the record at ``offset`` is valid; remembers an epoch that rises here."""
        index = bisect_right(self._offsets, offset)
        highest = self._epochs[index - 1] if index else self._base
        if epoch > highest:
            self._offsets.insert(index, offset)
            self._epochs.insert(index, epoch)
        return epoch >= highest

    def base_at(self, offset: int) -> int:
        """The highest epoch before ``offset``, below which nothing will be read again; forgets what is older."""
        index = bisect_right(self._offsets, offset - 1)
        if index:
            self._base = self._epochs[index - 1]
            del self._offsets[:index], self._epochs[:index]
        return self._base


_CLEAN = ",clean"


def encode_note(base: int, *, clean: bool) -> str:
    """What a worker keeps beside its commit: the epoch there, and whether it left nothing begun behind."""
    return f"{base}{_CLEAN if clean else ''}"


def decode_note(note: str) -> tuple[int, bool]:
    """Undo :func:`encode_note`; anything else reads as epoch 0 and not clean."""
    text = note.removesuffix(_CLEAN)
    return (int(text), note.endswith(_CLEAN)) if text.isascii() and text.isdecimal() else (0, False)
