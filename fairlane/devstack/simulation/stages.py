"""The stages of the topology as processes of a simulated world, built as the composition root builds them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.agents.config_view import ConfigView
from fairlane.agents.dispatcher import Dispatcher
from fairlane.agents.gate import Gate, GateSettings
from fairlane.agents.intake import IntakeLimits
from fairlane.agents.rebuilding_store import RebuildingStore
from fairlane.agents.settle import Settle
from fairlane.agents.store_rebuild import Groups, StoreRebuild
from fairlane.agents.topic_names import TopicNames
from fairlane.agents.worker import Worker
from fairlane.devstack.simulation.conditions import Conditions
from fairlane.devstack.simulation.log_twin import (
    SimulatedConsumer,
    SimulatedLog,
    SimulatedPublisher,
    SimulatedReader,
)
from fairlane.devstack.simulation.provider_twin import Called, SimulatedProvider
from fairlane.devstack.simulation.store_twin import SimulatedStore, SimulatedTables
from fairlane.devstack.simulation.virtual_loop import Process
from fairlane.devstack.simulation.workload import Shape
from fairlane.policy.assignment import sticky, whole_topics
from fairlane.ports import AdmissionStore, Engine, Stage
from fairlane.sinks.memory import MemoryWriter
from fairlane.sinks.rows import feeds_by_topic
from fairlane.sinks.runner import SinkRunner
from fairlane.streams import topology
from fairlane.streams.engines.loop import LoopEngine
from fairlane.streams.topology import StageSpec
from fairlane.telemetry import NO_METRICS

PREFIX = "sim."
GROUPS = "sim-"
NAMES = TopicNames(PREFIX)
SESSION_MS = 2_000
DISPATCHER_SESSION_MS = 1_500
REQUEST_TIMEOUT_MS = 120_000
IDEMPOTENCY_TTL_S = 86_400
COMMIT_MS = 200
DRAIN_MS = 1_500
START_MS = 1_795_000_000_000


class SimulatedClock:
    """Wall time that a fault may set wrong, and monotonic time that nothing can."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return START_MS + round(asyncio.get_running_loop().time() * 1000) + self.ahead_ms

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Outside:
    """What the processes share."""

    shape: Shape
    conditions: Conditions
    log: SimulatedLog
    store: MemoryAdmissionStore
    tables: MemoryWriter
    view: ConfigView
    calls: list[Called] = field(default_factory=list)


class Member:
    """One incarnation of a process: its connections, its stage and the engine that feeds it."""

    def __init__(
        self, outside: Outside, spec: StageSpec, process: Process, clock: SimulatedClock, *, instance: str
    ) -> None:
        self.process = process
        self.clock = clock
        self.stopping = asyncio.Event()
        self.publisher = SimulatedPublisher(outside.log, process)
        self.dispatcher: Dispatcher | None = None
        self._outside = outside
        self._spec = spec
        self._reader = SimulatedReader(outside.log)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        plain = [topic.full_name(PREFIX) for topic in spec.inputs if not topic.per_pool]
        owner = spec is topology.DISPATCHER
        self.consumer = SimulatedConsumer(
            outside.log,
            process,
            spec.group(GROUPS),
            plain,
            pattern=None if plain else re.escape(PREFIX + spec.inputs[0].name.format(pool="")),
            instance=instance,
            session_timeout_ms=DISPATCHER_SESSION_MS if owner else SESSION_MS,
            assign=whole_topics if owner else sticky,
        )
        self.engine = self._engine()

    async def run(self) -> None:
        """Until told to stop, or until it cannot go on; then what it has sent leaves before the process does."""
        running = asyncio.create_task(self.engine.run(self.stopping), name="engine")
        try:
            await asyncio.wait([running, self._failed], return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.publisher.stop()

    def _fail(self, failure: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(failure)

    def _engine(self) -> Engine:
        builders: dict[str, Callable[[], Stage]] = {
            "gate": self._gate,
            "dispatcher": self._dispatcher,
            "worker": self._worker,
            "settle": self._settle,
        }
        if self._spec is topology.SINKS:
            return self._sink()
        return LoopEngine(
            self.consumer,
            builders[self._spec.name](),
            self.clock,
            NO_METRICS,
            stage_name=self._spec.name,
            batch_max_records=self._outside.shape.batch,
            window_records=self._outside.shape.window,
            commit_interval_ms=COMMIT_MS,
            drain_timeout_ms=DRAIN_MS,
        )

    def _store(self) -> AdmissionStore:
        store = SimulatedStore(self._outside.store, self._outside.conditions, self.process)
        rebuild = StoreRebuild(
            names=NAMES,
            reader=self._reader,
            store=store,
            pools=lambda: self._outside.view.pools,
            groups=Groups(
                topology.DISPATCHER.group(GROUPS), topology.WORKER.group(GROUPS), topology.SETTLE.group(GROUPS)
            ),
            clock=self.clock,
            metrics=NO_METRICS,
            idempotency_ttl_s=IDEMPOTENCY_TTL_S,
        )
        rebuilding = RebuildingStore(store, rebuild.run, self._fail)
        if self._spec is topology.SETTLE:
            rebuilding.watch()
        return rebuilding

    def _gate(self) -> Stage:
        return Gate(
            names=NAMES,
            publisher=self.publisher,
            reader=self._reader,
            store=self._store(),
            config=lambda: self._outside.view,
            clock=self.clock,
            metrics=NO_METRICS,
            lease_ok=self.consumer.lease_ok,
            settings=GateSettings(
                IntakeLimits(
                    max_request_bytes=100_000,
                    default_timeout_ms=REQUEST_TIMEOUT_MS,
                    longest_timeout_ms=IDEMPOTENCY_TTL_S * 1000,
                ),
                IDEMPOTENCY_TTL_S,
            ),
            fail=self._fail,
        )

    def _dispatcher(self) -> Stage:
        self.dispatcher = Dispatcher(
            names=NAMES,
            publisher=self.publisher,
            reader=self._reader,
            store=self._store(),
            config=lambda: self._outside.view,
            clock=self.clock,
            metrics=NO_METRICS,
            worker_group=topology.WORKER.group(GROUPS),
            lease_ok=self.consumer.lease_ok,
            fail=self._fail,
        )
        return self.dispatcher

    def _worker(self) -> Stage:
        provider = SimulatedProvider(self._outside.conditions, self.process.name, self._outside.calls)
        return Worker(
            names=NAMES,
            publisher=self.publisher,
            reader=self._reader,
            providers={self._outside.view.providers["sim"].kind: provider},
            config_version=lambda: self._outside.view.version,
            clock=self.clock,
            metrics=NO_METRICS,
            process=self.process.name,
            lease_ok=self.consumer.lease_ok,
            fail=self._fail,
        )

    def _settle(self) -> Stage:
        return Settle(
            names=NAMES,
            publisher=self.publisher,
            reader=self._reader,
            store=self._store(),
            config_version=lambda: self._outside.view.version,
            clock=self.clock,
            metrics=NO_METRICS,
            lease_ok=self.consumer.lease_ok,
            idempotency_ttl_s=IDEMPOTENCY_TTL_S,
        )

    def _sink(self) -> Engine:
        return SinkRunner(
            self.consumer,
            self._reader,
            SimulatedTables(self._outside.tables, self._outside.conditions, self.process),
            feeds_by_topic(PREFIX),
            self.clock,
            NO_METRICS,
            batch_rows=self._outside.shape.sink_rows,
            batch_ms=150,
            drain_timeout_ms=DRAIN_MS,
        )
