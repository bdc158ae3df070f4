"""Which record of a key counts: the one of the lowest offset, remembered over a bounded stretch of the log."""

from __future__ import annotations

from collections import OrderedDict


class RecentKeys:
    """Keys of the last ``span`` offsets of one partition.

    What it answers for an offset depends only on the log's ``span`` offsets before it, so whoever reads those
    first gives the same answers as the process that went before.
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._last: OrderedDict[bytes, int] = OrderedDict()

    def first_time(self, key: bytes, offset: int) -> bool:
        """Note ``key`` at ``offset`` (rising); False if it stood within the span before."""
        while self._last:
            oldest = next(iter(self._last.values()))
            if oldest >= offset - self._span:
                break
            self._last.popitem(last=False)
        known = self._last.pop(key, None)
        self._last[key] = offset
        return known is None
