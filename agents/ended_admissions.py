"""Which admissions ended lately in a pool, to recognise a lane record that the gate wrote twice."""

from __future__ import annotations

ENDED_LEAST = 25_000
"""At 1,250 a second twenty seconds: longer than a gate that died needs to be replaced, after which its last lane
records are written again."""


class EndedAdmissions:
    """Remembers the latest :data:`ENDED_LEAST` admissions at least, and never more than twice as many.

    Two sets that take turns, and no ordered dict: one that loses its first keys keeps their places until it is
    rebuilt, and each rebuilding takes more memory, for minutes and to twice as much.
    """

    def __init__(self) -> None:
        self._latest: set[bytes] = set()
        self._before: set[bytes] = set()

    def add(self, admission: bytes) -> None:
        """This one ended."""
        self._latest.add(admission)
        if len(self._latest) >= ENDED_LEAST:
            self._before, self._latest = self._latest, set()

    def __contains__(self, admission: bytes) -> bool:
        return admission in self._latest or admission in self._before
