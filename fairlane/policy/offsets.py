"""Which offset of a partition may be committed while its records finish in any order.

The committable offset is the contiguous prefix; what is finished beyond it travels in the commit's
metadata, so that a successor does not do it again. The idea is that of Confluent's Parallel Consumer
(https://github.com/confluentinc/parallel-consumer). A broker keeps at most 4,096 bytes of metadata
(``offset.metadata.max.bytes``); we stay below 3,072.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

METADATA_BYTES = 3_072
NOTE_CHARS = 200
SPAN_LIMIT = 100_000
"""Offsets between the base and the last one read. Bounds what a successor unpacks."""

_SEPARATOR = "|"
_PAYLOAD_BYTES = (METADATA_BYTES - NOTE_CHARS - 2) // 4 * 3
_BITMAP_SPAN = _PAYLOAD_BYTES * 8
_RUN_PAIR_BYTES = 6
"""Two variable-length integers below 2**21 each."""
_HEADROOM = 1_000
"""Records that may still be taken after ``full`` was last seen false (a poll already under way)."""

Run = tuple[int, int]
"""A half-open range of offsets."""


class CommitTracker:
    """The progress of one partition. Not for use from several threads.

    Everything in [base, reached) that is not open counts as finished: an offset that was never taken
    is a gap in the log (compaction, a transaction marker). So the state is the open offsets, and
    its size follows what is in flight, not how far reading ran ahead of a slow record.
    """

    __slots__ = ("_ahead", "_open", "_order", "_reached", "_window")

    def __init__(self, base: int, finished: Iterable[int] = (), *, window: int = 5_000) -> None:
        self._reached = base
        self._window = window
        self._open: set[int] = set()
        self._order: deque[int] = deque()
        self._ahead: deque[Run] = deque(_runs_of(sorted(o for o in finished if o >= base)))
        self._skip_finished()

    def take(self, offset: int) -> bool:
        """Note that a record was read; False where it is finished already and must not be delivered.

        Offsets come in ascending order; one that is still open may be taken again (True).
        """
        if offset < self._reached:
            return offset in self._open
        self._reached = offset
        self._skip_finished()
        if self._reached > offset:
            return False
        self._reached = offset + 1
        self._open.add(offset)
        self._order.append(offset)
        self._skip_finished()
        return True

    def done(self, offset: int) -> None:
        """A taken record is finished. Idempotent; an offset that is not open is ignored."""
        if offset not in self._open:
            return
        self._open.remove(offset)
        order = self._order
        while order and order[0] not in self._open:
            order.popleft()
        if len(order) > 2 * len(self._open) + 64:
            self._order = deque(sorted(self._open))

    def is_open(self, offset: int) -> bool:
        """Whether the record was taken and is not finished."""
        return offset in self._open

    @property
    def base(self) -> int:
        """The committable offset: everything below is finished."""
        return self._order[0] if self._order else self._reached

    @property
    def reached(self) -> int:
        """The next offset to read."""
        return self._reached

    @property
    def unfinished(self) -> int:
        """Records taken and not done."""
        return len(self._open)

    @property
    def window(self) -> int:
        """How many unfinished records there may be before :attr:`full`."""
        return self._window

    @property
    def full(self) -> bool:
        """Whether reading should stop: the window is reached or the metadata is near its limit."""
        return self.room == 0

    @property
    def room(self) -> int:
        """How many more records the window takes; 0 once :attr:`full`."""
        room = max(0, self._window - len(self._open))
        span = self._reached - self.base
        if span < _BITMAP_SPAN - _HEADROOM:
            return room
        runs = len(self._open) + len(self._ahead) + 1
        full = span >= SPAN_LIMIT - _HEADROOM or _RUN_PAIR_BYTES * runs > _PAYLOAD_BYTES // 2
        return 0 if full else room

    def position(self, note: str = "") -> tuple[int, str]:
        """The offset to commit and its metadata, at most :data:`METADATA_BYTES` characters.

        Should the finished set not fit (``full`` was ignored), its highest part is left out: a
        successor then does that work again, and nothing is lost. Raises ValueError for a note that is
        not :data:`NOTE_CHARS` characters of printable ASCII without ``|``.
        """
        if len(note) > NOTE_CHARS or _SEPARATOR in note or not (note.isascii() and note.isprintable()):
            raise ValueError(f"note: at most {NOTE_CHARS} printable ASCII characters without {_SEPARATOR!r}")
        payload = _encode(self.base, self._finished_runs())
        return self.base, f"{payload}{_SEPARATOR}{note}" if payload or note else ""

    def _skip_finished(self) -> None:
        ahead = self._ahead
        while ahead and ahead[0][0] <= self._reached:
            self._reached = max(self._reached, ahead.popleft()[1])

    def _finished_runs(self) -> Iterator[Run]:
        edges = [*sorted(self._open), self._reached]
        for before, after in pairwise(edges):
            if after > before + 1:
                yield before + 1, after
        yield from self._ahead


def decode_metadata(base: int, text: str) -> tuple[frozenset[int], str]:
    """The finished offsets and the note inside commit metadata.

    Text of another origin gives an empty set and an empty note: then work is done again, never lost.
    """
    payload, separator, note = text.partition(_SEPARATOR)
    if not separator or _SEPARATOR in note:
        return frozenset(), ""
    if not payload:
        return frozenset(), note
    try:
        raw = base64.b64decode(payload[1:], altchars=b"-_", validate=True)
        runs = {"r": _decode_runs, "b": _decode_bitmap}[payload[0]](base, raw)
    except (KeyError, ValueError, binascii.Error):
        return frozenset(), ""
    return frozenset(offset for first, end in runs for offset in range(first, end)), note


def _runs_of(offsets: Iterable[int]) -> Iterator[Run]:
    first = end = -1
    for offset in offsets:
        if offset != end:
            if end > first:
                yield first, end
            first = offset
        end = offset + 1
    if end > first:
        yield first, end


def _encode(base: int, runs: Iterable[Run]) -> str:
    """Run lengths or a bitmap: the shorter where both fit, else the one that keeps more."""
    kept: list[Run] = []
    lengths = bytearray()
    listed = base
    complete = True
    for first, last in runs:
        end = min(last, base + SPAN_LIMIT)
        if first >= end:
            break
        if complete:
            pair = _varint(first - listed) + _varint(end - first)
            complete = len(lengths) + len(pair) <= _PAYLOAD_BYTES
            if complete:
                lengths += pair
                listed = end
        if not complete and first - base >= _BITMAP_SPAN:
            break
        kept.append((first, end))
    if not kept:
        return ""
    mapped = min(kept[-1][1], base + _BITMAP_SPAN)
    if mapped > listed or (mapped == listed and (mapped - base + 7) // 8 < len(lengths)):
        return "b" + base64.urlsafe_b64encode(_bitmap(base, kept, mapped - base)).decode()
    return "r" + base64.urlsafe_b64encode(lengths).decode()


def _bitmap(base: int, runs: Iterable[Run], span: int) -> bytes:
    bits = 0
    for first, end in runs:
        length = min(end - base, span) - (first - base)
        if length > 0:
            bits |= ((1 << length) - 1) << (first - base)
    return bits.to_bytes((span + 7) // 8, "little")


def _decode_bitmap(base: int, raw: bytes) -> list[Run]:
    if len(raw) > _PAYLOAD_BYTES:
        raise ValueError("bitmap is too long")
    return list(_runs_of(base + 8 * i + bit for i, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1))


def _decode_runs(base: int, raw: bytes) -> list[Run]:
    numbers = list(_varints(raw))
    if len(numbers) % 2:
        raise ValueError("run without a length")
    runs: list[Run] = []
    cursor = base
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        first = cursor + gap
        cursor = first + length
        if cursor - base > SPAN_LIMIT:
            raise ValueError("runs are too long")
        runs.append((first, cursor))
    return runs


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(raw: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in raw:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 28:
                raise ValueError("number is too long")
        else:
            yield number
            number = shift = 0
    if shift:
        raise ValueError("number is cut off")
