"""Tells the admission store which requests have left their lanes, many in one round trip."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from fairlane.agents.config_view import ConfigView
from fairlane.agents.pause import Pause
from fairlane.errors import Retry
from fairlane.ports import AdmissionStore
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

MARKS_MAX = 20_000
BATCH_MARKS = 500
GATHER_S = 0.05
"""How long a mark may wait for others: a round trip costs the CPU of some twenty marks."""
WAITING_SHARE = 20
"""No more than one in so many of a tenant's ``max_undispatched`` waits for others, or its cap would be felt early."""


class DispatchMarks:
    """While the store is away marks wait; the oldest are dropped at the bound, and settling such a request
    frees its place instead.
    """

    def __init__(self, store: AdmissionStore, config: Callable[[], ConfigView]) -> None:
        self._store = store
        self._config = config
        self._marks: deque[tuple[str, str]] = deque(maxlen=MARKS_MAX)
        self._gathered: Counter[str] = Counter()
        self._any = asyncio.Event()
        self._pause = Pause()
        self._urgent = False

    def add(self, tenant_id: str, request_id: str) -> None:
        """This request has left its lane."""
        self._marks.append((tenant_id, request_id))
        self._gathered[tenant_id] += 1
        tenant = self._config().tenants.get(tenant_id)
        if tenant is None or self._gathered[tenant_id] * WAITING_SHARE >= tenant.max_undispatched:
            self._urgent = True
            self._pause.end()
        self._any.set()

    async def run(self) -> None:
        """Tell the store, for ever."""
        while True:
            await self._any.wait()
            if not self._urgent:
                await self._pause.at_most(GATHER_S)
            self._any.clear()
            try:
                await self.flush()
            except Retry as failure:
                _log.warning("marks_delayed", waiting=len(self._marks), error=str(failure))
                await asyncio.sleep(failure.after)
                self._any.set()

    async def flush(self) -> None:
        """Tell the store of all there are. Raises Retry, and keeps those it was not told of."""
        self._urgent = False
        self._gathered.clear()
        while self._marks:
            batch = [self._marks.popleft() for _ in range(min(BATCH_MARKS, len(self._marks)))]
            try:
                await self._store.dispatched(batch)
            except Retry:
                self._marks.extendleft(reversed(batch))
                raise
