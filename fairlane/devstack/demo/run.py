"""One run of the demo on a running stack: replay, watch, wait for every answer, collect the facts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.clock import Clock
from fairlane.devstack.demo.facts import Ledger, RunFacts, Terminal, winners
from fairlane.devstack.demo.live_view import LiveView, Moment
from fairlane.devstack.demo.observer import Observer, read_terminals
from fairlane.devstack.demo.replay import Replay
from fairlane.devstack.demo.stored import TABLE_QUERIES, StoredRun, TableQuery
from fairlane.devstack.demo.workload import DemoTenant, PlannedRequest
from fairlane.errors import FairlaneError, Fatal
from fairlane.ports import TenantUsage
from fairlane.schemas.topics import DEAD_LETTERS, REQUESTS, RESULTS
from fairlane.settings import Settings
from fairlane.sinks.connection import ClickHouseConnection

ANSWERS_STALL_S = 60.0
"""When no further result came for this long after the replay, the rest is taken for lost."""
SETTLE_LIMIT_S = 60.0
"""How long rows and ledgers may take to follow the results."""
_LOOK_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What a run left behind. ``tables`` are rows of :data:`~fairlane.devstack.demo.stored.TABLE_QUERIES`."""

    facts: RunFacts
    started_ms: int
    latest_s: float
    first_result_s: float | None
    tables: Sequence[tuple[TableQuery, Sequence[Sequence[Any]]]]


@dataclass(slots=True)
class DemoRun:
    """Runs the plan once. ``show`` makes the live view; ``began`` is when the command did (monotonic seconds)."""

    settings: Settings
    tenants: Sequence[DemoTenant]
    plan: Sequence[PlannedRequest]
    clock: Clock
    show: Callable[[Callable[[], Moment]], LiveView]
    began: float
    _phase: str = "replaying the trace"

    async def run(self) -> DemoOutcome:
        """Replay, wait and collect. Raises Retry when a service cannot be reached, Fatal when one fails us."""
        settings = self.settings
        async with AsyncExitStack() as stack:
            reader = KafkaReader(settings.kafka_bootstrap)
            await _open(stack, reader.start, reader.stop)
            publisher = KafkaPublisher(settings.kafka_bootstrap, "fairlane-demo")
            await _open(stack, publisher.start, publisher.stop)
            store = RedisAdmissionStore(settings.redis_url, settings.topic_prefix)
            stack.push_async_callback(store.close)
            connection = ClickHouseConnection(settings.clickhouse_url)
            stack.push_async_callback(connection.close)
            before = await store.usage(self._ids)
            observer = Observer(reader, settings.topic_prefix, self._ids, self.clock)
            await observer.start()
            dead_before = await _end(reader, DEAD_LETTERS.full_name(settings.topic_prefix))
            replay = Replay(publisher, REQUESTS.full_name(settings.topic_prefix), self.plan, self.clock)
            await self._watched(replay, observer)
            topic = RESULTS.full_name(settings.topic_prefix)
            log = await read_terminals(reader, topic, observer.result_starts)
            stored = StoredRun(connection, settings.clickhouse_database)
            await self._until(lambda: self._rows_follow(stored, log))
            await self._until(lambda: self._ledgers_follow(store, before, log))
            facts = RunFacts(
                sent=replay.sent,
                unsure=frozenset(replay.unsure),
                log=log,
                rows=await stored.terminals(),
                ledgers=_ledgers(self._ids, before, await store.usage(self._ids)),
                flooder=next(tenant.tenant_id for tenant in self.tenants if tenant.floods),
                dead_letters=await _end(reader, DEAD_LETTERS.full_name(settings.topic_prefix)) - dead_before,
            )
            await self._until(lambda: self._decisions_follow(stored, facts))
            tables = [(query, await stored.table(query)) for query in TABLE_QUERIES]
        first_s = None if observer.first_at is None else observer.first_at - self.began
        return DemoOutcome(facts, replay.started_ms, replay.latest_s, first_s, tables)

    @property
    def _ids(self) -> list[str]:
        return [tenant.tenant_id for tenant in self.tenants]

    async def _watched(self, replay: Replay, observer: Observer) -> None:
        shown = asyncio.Event()
        view = self.show(lambda: self._moment(replay, observer))
        following = asyncio.create_task(observer.run())
        viewing = asyncio.create_task(view.run(shown))
        working = asyncio.create_task(self._replay_and_wait(replay, observer))
        try:
            await asyncio.wait({following, viewing, working}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                _raise_what_ended(following, viewing)
            await working
            shown.set()
            await viewing
        finally:
            for task in (working, viewing, following):
                task.cancel()
            await asyncio.gather(working, viewing, following, return_exceptions=True)

    async def _replay_and_wait(self, replay: Replay, observer: Observer) -> None:
        await replay.run(asyncio.Event())
        self._phase = "waiting for the last answers"
        seen, since = observer.terminals, self.clock.monotonic()
        while observer.terminals < len(replay.sent):
            await asyncio.sleep(_LOOK_AGAIN_S)
            if observer.terminals > seen:
                seen, since = observer.terminals, self.clock.monotonic()
            elif self.clock.monotonic() - since > ANSWERS_STALL_S:
                return
        self._phase = "every request is answered"

    def _moment(self, replay: Replay, observer: Observer) -> Moment:
        seconds = (self.clock.now_ms() - replay.started_ms) / 1000 if replay.started_ms else 0.0
        asked = sum(replay.asked.values())
        headline = (
            f"{seconds:5.1f} s  {asked:,} of {len(self.plan):,} sent, {observer.terminals:,} answered: {self._phase}"
        )
        return Moment(headline, observer.lines(replay.asked))

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait, within the limit, until something holds. The verdict judges what is found then."""
        deadline = self.clock.monotonic() + SETTLE_LIMIT_S
        while not await holds() and self.clock.monotonic() < deadline:  # noqa: ASYNC110 - other systems have no event
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _rows_follow(self, stored: StoredRun, log: Sequence[Terminal]) -> bool:
        return await stored.count("requests") >= len(winners(log))

    async def _decisions_follow(self, stored: StoredRun, facts: RunFacts) -> bool:
        served = sum(1 for terminal in facts.log if terminal.status == "succeeded")
        # One decision of the gate for each request, one of the dispatcher for each that was served.
        return await stored.count("decisions") >= len(facts.sent) + served

    async def _ledgers_follow(
        self, store: RedisAdmissionStore, before: Sequence[TenantUsage], log: Sequence[Terminal]
    ) -> bool:
        ledgers = _ledgers(self._ids, before, await store.usage(self._ids))
        spent = sum(ledger.spent_nano_usd for ledger in ledgers.values())
        idle = all(not (ledger.held_nano_usd or ledger.undispatched or ledger.in_flight) for ledger in ledgers.values())
        return idle and spent >= sum(terminal.cost_nano_usd for terminal in winners(log).values())


def _ledgers(tenants: Sequence[str], before: Sequence[TenantUsage], now: Sequence[TenantUsage]) -> dict[str, Ledger]:
    return {
        tenant: Ledger(
            spent_nano_usd=after.spent_nano_usd - first.spent_nano_usd,
            held_nano_usd=after.held_nano_usd,
            undispatched=after.undispatched,
            in_flight=after.in_flight,
        )
        for tenant, first, after in zip(tenants, before, now, strict=True)
    }


async def _open(
    stack: AsyncExitStack, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> None:
    await start()
    stack.push_async_callback(stop)


async def _end(reader: KafkaReader, topic: str) -> int:
    return sum((await reader.ends(topic)).values())


def _raise_what_ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        if not task.done():
            continue
        failure = task.exception()
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        if isinstance(failure, FairlaneError):
            raise failure
        raise Fatal(f"watching the run failed: {failure}") from failure
