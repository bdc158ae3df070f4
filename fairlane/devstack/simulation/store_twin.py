"""The admission store and the tables as processes meet them: slow, away, or silent after they did as asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.devstack.simulation.conditions import Conditions
from fairlane.devstack.simulation.virtual_loop import Process
from fairlane.errors import Retry
from fairlane.ports import (
    Admission,
    AdmissionRequest,
    Answered,
    Restoration,
    Settled,
    Settlement,
    TenantUsage,
    TopicPartition,
)
from fairlane.sinks.base import Row
from fairlane.sinks.memory import MemoryWriter
from fairlane.sinks.tables import Table

T = TypeVar("T")


class SimulatedStore:
    """One process's connection to the :class:`~fairlane.ports.RestorableStore` of the world."""

    def __init__(self, store: MemoryAdmissionStore, conditions: Conditions, process: Process) -> None:
        self._store = store
        self._conditions = conditions
        self._process = process

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """Decide each request in order."""
        return await self._ask(lambda: self._store.admit(requests))

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        """These have left their lane."""
        await self._ask(lambda: self._store.dispatched(requests))

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Book each result once."""
        return await self._ask(lambda: self._store.settle(settlements))

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """Forget followers whose results are in the log."""
        if answered:
            await self._ask(lambda: self._store.followers_answered(answered))

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """Live figures."""
        return await self._ask(lambda: self._store.usage(tenant_ids))

    async def live(self) -> bool:
        """Whether it knows what it should."""
        return await self._ask(self._store.live)

    async def claim(self, token: str, ttl_ms: int) -> bool:
        """Get or keep the right to fill it."""
        return await self._ask(lambda: self._store.claim(token, ttl_ms))

    async def restore(self, token: str, restorations: Sequence[Restoration]) -> None:
        """Tell it what the log says."""
        await self._ask(lambda: self._store.restore(token, restorations))

    async def complete(self, token: str) -> bool:
        """It knows everything now."""
        return await self._ask(lambda: self._store.complete(token))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        conditions = self._conditions

        async def at_the_store() -> T:
            if conditions.store_away:
                raise Retry("the admission store does not answer", after=0.1)
            return await question()

        lose = conditions.goes_wrong("store", self._process)
        slow_s = conditions.rng.random() * conditions.store_slow_s if conditions.store_slow_s else 0.0
        return await conditions.remotely(at_the_store, lose_answer=lose, slow_s=slow_s)


class SimulatedTables:
    """One process's connection to the tables of the world; a :class:`~fairlane.sinks.writer.RowWriter`."""

    def __init__(self, tables: MemoryWriter, conditions: Conditions, process: Process) -> None:
        self._tables = tables
        self._conditions = conditions
        self._process = process

    async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
        """Insert once per token."""
        await self._ask(lambda: self._tables.insert(table, rows, token))

    async def present(
        self, requests: Sequence[tuple[str, str]], partition: TopicPartition, offset: int
    ) -> frozenset[tuple[str, str]]:
        """Look the requests up."""
        return await self._ask(lambda: self._tables.present(requests, partition, offset))

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        conditions = self._conditions

        async def at_the_tables() -> T:
            if conditions.tables_away:
                raise Retry("the tables do not answer", after=0.1)
            return await question()

        return await conditions.remotely(at_the_tables, lose_answer=conditions.goes_wrong("tables", self._process))
