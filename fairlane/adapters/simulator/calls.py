"""What the simulator counts about its calls, so that tests can compare calls made with calls billed."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

REQUEST_IDS_MAX = 100_000
"""Request ids remembered; beyond it the oldest tenth is forgotten, and how many is told."""


class CallCounts:
    """Calls by model, by status and by the request id of the caller; calls in flight now and at most."""

    def __init__(self, request_ids_max: int = REQUEST_IDS_MAX) -> None:
        self._request_ids_max = request_ids_max
        self._by_model: Counter[str] = Counter()
        self._by_status: Counter[int] = Counter()
        self._by_request: dict[str, int] = {}
        self._forgotten = 0
        self._in_flight = 0
        self._max_in_flight = 0

    def begin(self, model: str, request_id: str | None) -> int:
        """Count a call; returns which call of this request id it is (1 for the first, and without an id)."""
        self._by_model[model] += 1
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        if not request_id:
            return 1
        nth = self._by_request[request_id] = self._by_request.get(request_id, 0) + 1
        if len(self._by_request) > self._request_ids_max:
            # Many at once: to find the first key of a dict Python walks past all that were deleted before it.
            oldest = list(islice(self._by_request, max(1, self._request_ids_max // 10)))
            for forgotten in oldest:
                del self._by_request[forgotten]
            self._forgotten += len(oldest)
        return nth

    def end(self, status: int | None) -> None:
        """A call is over; ``status`` is None where the caller went away before there was one."""
        self._in_flight -= 1
        self._by_status[status or 0] += 1

    def snapshot(self) -> dict[str, Any]:
        """All figures as JSON-ready values; status 0 stands for callers that went away."""
        return {
            "calls": sum(self._by_model.values()),
            "calls_by_model": dict(self._by_model),
            "calls_by_status": {str(status): count for status, count in self._by_status.items()},
            "calls_by_request": dict(self._by_request),
            "requests_forgotten": self._forgotten,
            "in_flight": self._in_flight,
            "max_in_flight": self._max_in_flight,
        }
