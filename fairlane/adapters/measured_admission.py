"""Measures an admission store from outside, so that neither the store nor the stages do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fairlane.clock import Clock
from fairlane.errors import Retry
from fairlane.ports import (
    Admission,
    AdmissionRequest,
    AdmissionStore,
    Answered,
    Settled,
    Settlement,
    TenantUsage,
)
from fairlane.telemetry import Metrics


class MeasuredAdmissionStore:
    """An :class:`~fairlane.ports.AdmissionStore` that times each round trip of another and counts failures."""

    def __init__(self, store: AdmissionStore, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """See the port."""
        with self._measured("admit"):
            return await self._store.admit(requests)

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        """See the port."""
        with self._measured("dispatched"):
            await self._store.dispatched(requests)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """See the port."""
        with self._measured("settle"):
            return await self._store.settle(settlements)

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """See the port."""
        with self._measured("followers_answered"):
            await self._store.followers_answered(answered)

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """See the port."""
        with self._measured("usage"):
            return await self._store.usage(tenant_ids)

    @contextmanager
    def _measured(self, operation: str) -> Iterator[None]:
        began = self._clock.monotonic()
        try:
            yield
        except Retry:
            self._metrics.inc("store_failures_total", operation=operation)
            raise
        self._metrics.observe("store_seconds", self._clock.monotonic() - began, operation=operation)
