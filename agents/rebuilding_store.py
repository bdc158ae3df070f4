"""An admission store that fills itself again from the log when it has forgotten what it knew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fairlane.errors import Fatal, Retry
from fairlane.ports import (
    Admission,
    AdmissionRequest,
    Answered,
    RestorableStore,
    Settled,
    Settlement,
    StoreEmptied,
    TenantUsage,
)
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

T = TypeVar("T")

WATCH_S = 1.0


class RebuildingStore:
    """An :class:`~fairlane.ports.AdmissionStore`. Callers get StoreEmptied, a Retry, until it is filled."""

    def __init__(
        self, store: RestorableStore, rebuild: Callable[[], Awaitable[bool]], fail: Callable[[BaseException], None]
    ) -> None:
        self._store = store
        self._rebuild = rebuild
        self._fail = fail
        self._filling: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """See the port."""
        return await self._ask(self._store.admit(requests))

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        """See the port."""
        await self._ask(self._store.dispatched(requests))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See the port."""
        return await self._ask(self._store.settle(settlements))

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """See the port."""
        await self._ask(self._store.followers_answered(answered))

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """See the port."""
        return await self._ask(self._store.usage(tenant_ids))

    def watch(self) -> None:
        """From now on ask every second, so that a store nobody uses is filled too."""
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="store-watch")

    async def _watch(self) -> None:
        while True:
            try:
                if not await self._store.live():
                    self._begin()
            except Retry as failure:
                _log.debug("store_not_reachable", error=str(failure))
            await asyncio.sleep(WATCH_S)

    async def close(self) -> None:
        """Stop filling; another process goes on after a while."""
        tasks = [task for task in (self._watching, self._filling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except StoreEmptied:
            self._begin()
            raise

    def _begin(self) -> None:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.get_running_loop().create_task(self._fill(), name="store-rebuild")

    async def _fill(self) -> None:
        try:
            await self._rebuild()
        except Retry as failure:
            # Whoever asks next begins again.
            _log.warning("store_rebuild_interrupted", error=str(failure))
        except Exception as failure:  # noqa: BLE001 - a bug here must end the process, not leave it waiting
            self._fail(Fatal(f"the admission store could not be filled: {type(failure).__name__}: {failure}"))
