"""Follows results and decisions while the demo runs, and keeps each tenant's figures."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from fairlane.clock import Clock
from fairlane.devstack.demo.facts import Terminal, percentile
from fairlane.ports import LogReader, Record
from fairlane.schemas.base import timestamp_to_ms
from fairlane.schemas.codec import decode
from fairlane.schemas.result import Result
from fairlane.schemas.topics import DECISIONS, RESULTS

RECENT_WAITS = 1000


@dataclass(frozen=True, slots=True)
class TenantLine:
    """A tenant's figures at one moment. Waits are in milliseconds, of its latest dispatched requests."""

    tenant_id: str
    requests: int
    waiting: int
    in_flight: int
    succeeded: int
    refused: int
    wait_p50_ms: float
    wait_p99_ms: float
    share: float
    cost_nano_usd: int


@dataclass(slots=True)
class _Figures:
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    ended_in_lane: int = 0
    ended_at_worker: int = 0
    waits_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_WAITS))
    tokens: int = 0
    cost_nano_usd: int = 0


class Observer:
    """Live figures per tenant. They are for watching; the verdict reads the log again at the end."""

    def __init__(self, reader: LogReader, topic_prefix: str, tenants: Sequence[str], clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._topics = {spec.name: spec.full_name(topic_prefix) for spec in (RESULTS, DECISIONS)}
        self._figures = {tenant: _Figures() for tenant in tenants}
        self.terminals = 0
        """Terminal results seen so far."""
        self.first_at: float | None = None
        """When the first of them was seen (monotonic seconds)."""
        self.result_starts: Mapping[int, int] = {}
        """Where `results` ended before the run."""
        self._decision_starts: Mapping[int, int] = {}

    async def start(self) -> None:
        """Remember where the topics end; call before the first request is sent."""
        self.result_starts = await self._reader.ends(self._topics[RESULTS.name])
        self._decision_starts = await self._reader.ends(self._topics[DECISIONS.name])

    async def run(self) -> None:
        """Follow until cancelled. Raises what the reader raises."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(RESULTS.name, self.result_starts))
            tasks.create_task(self._follow(DECISIONS.name, self._decision_starts))

    def lines(self, asked: Mapping[str, int]) -> list[TenantLine]:
        """Each tenant's figures now; ``asked`` counts what was sent."""
        everything = sum(figures.tokens for figures in self._figures.values())
        return [self._line(tenant, asked.get(tenant, 0), everything) for tenant in self._figures]

    async def _follow(self, name: str, starts: Mapping[int, int]) -> None:
        take = self._take_result if name == RESULTS.name else self._take_decision
        async for batch in self._reader.read(self._topics[name], starts):
            for record in batch:
                take(record)

    def _take_decision(self, record: Record) -> None:
        decision = orjson.loads(record.value or b"{}")
        figures = self._figures.get(decision.get("tenant_id"))
        if figures is None:
            return
        figures.kinds[decision["kind"]] += 1
        waited = decision.get("attributes", {}).get("waited_ms")
        if decision["kind"] == "dispatched" and waited is not None:
            figures.waits_ms.append(float(waited))

    def _take_result(self, record: Record) -> None:
        result = orjson.loads(record.value or b"{}")
        figures = self._figures.get(result.get("tenant_id"))
        if figures is None:
            return
        self.terminals += 1
        if self.first_at is None:
            self.first_at = self._clock.monotonic()
        figures.statuses[result["status"]] += 1
        figures.tokens += result["usage"]["input_tokens"] + result["usage"]["output_tokens"]
        figures.cost_nano_usd += result["cost"]["nano_usd"]
        if result["timings"]["dispatched_at"] is not None:
            figures.ended_at_worker += 1
        elif result["timings"]["admitted_at"] is not None:
            figures.ended_in_lane += 1

    def _line(self, tenant: str, asked: int, everything: int) -> TenantLine:
        figures = self._figures[tenant]
        dispatched = figures.kinds["dispatched"]
        waits = list(figures.waits_ms)
        return TenantLine(
            tenant_id=tenant,
            requests=asked,
            waiting=max(0, figures.kinds["admitted"] - dispatched - figures.ended_in_lane),
            in_flight=max(0, dispatched - figures.ended_at_worker),
            succeeded=figures.statuses["succeeded"],
            refused=figures.statuses.total() - figures.statuses["succeeded"],
            wait_p50_ms=percentile(waits, 50),
            wait_p99_ms=percentile(waits, 99),
            share=figures.tokens / everything if everything else 0.0,
            cost_nano_usd=figures.cost_nano_usd,
        )


async def read_terminals(reader: LogReader, topic: str, starts: Mapping[int, int]) -> list[Terminal]:
    """Every record on ``results`` from ``starts`` to its present end.

    Raises :class:`~fairlane.schemas.codec.DecodeError` for a record that is not as its contract says.
    """
    terminals: list[Terminal] = []
    async for batch in reader.read(topic, starts, await reader.ends(topic)):
        terminals += [terminal_of(record) for record in batch]
    return terminals


def terminal_of(record: Record) -> Terminal:
    """A record of ``results`` as a terminal. Raises DecodeError if it is not one."""
    result = decode(Result, record.value or b"")
    return Terminal(
        tenant_id=result.tenant_id,
        request_id=result.request_id,
        status=result.status.value,
        error_code=result.error.code.value if result.error is not None else None,
        cost_nano_usd=result.cost.nano_usd,
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        queue_ms=result.timings.queue_ms,
        model_ms=result.timings.model_ms,
        added_ms=result.timings.added_ms,
        received_ms=timestamp_to_ms(result.timings.received_at),
        completed_ms=timestamp_to_ms(result.timings.completed_at),
        model=result.route.model if result.route is not None else None,
        partition=record.partition,
        offset=record.offset,
    )
