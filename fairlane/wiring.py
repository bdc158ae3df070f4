"""The composition root: from settings to a running stage. Nothing else builds adapters."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from fairlane.adapters.health_server import HealthServer
from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.adapters.measured_admission import MeasuredAdmissionStore
from fairlane.adapters.openai_compatible import OpenAICompatibleProvider
from fairlane.adapters.openai_sdk import OpenAISdkProvider
from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.agents.config_follower import ConfigFollower
from fairlane.agents.dispatcher import Dispatcher
from fairlane.agents.gate import Gate, GateSettings
from fairlane.agents.intake import IntakeLimits
from fairlane.agents.provider_keys import ProviderKeys
from fairlane.agents.rebuilding_store import RebuildingStore
from fairlane.agents.settle import Settle
from fairlane.agents.store_rebuild import Groups, StoreRebuild
from fairlane.agents.topic_names import TopicNames
from fairlane.agents.worker import Worker
from fairlane.clock import SystemClock
from fairlane.errors import Fatal, Reject
from fairlane.ports import AdmissionStore, Engine, Provider, Stage
from fairlane.schemas.topics import TopicSpec
from fairlane.settings import Settings
from fairlane.sinks.clickhouse import ClickHouseWriter
from fairlane.sinks.rows import feeds_by_topic
from fairlane.sinks.runner import SinkRunner
from fairlane.streams import topology
from fairlane.streams.assignor import pool_assignor
from fairlane.streams.engines.faust import FaustEngine
from fairlane.streams.engines.loop import LoopEngine
from fairlane.streams.kafka_consumer import PARTITION_FETCH_BYTES, KafkaConsumer
from fairlane.streams.topology import StageSpec
from fairlane.telemetry import PrometheusMetrics, configure_logging, get_logger

_SINK_FETCH_BYTES = 1_048_576
"""Of one partition at once. A fetch that waits on idle topics holds back the next of busy ones, so sinks take more
with each: a backlog drains 2.2 times as fast as with the default. And no fetch is answered with less while it may
wait: rows are gathered anyway, and at 100 requests per second a fetch for each record cost six times as much CPU."""

_GATHER_MS = {"gate": 40, "dispatcher": 20, "worker": 20}
"""A fetch costs a stage and its broker more CPU than a request does. Under load one without a pause is answered with a
record or two, and so is every one behind it; at 500 requests a second these pauses save more time than they take."""
_PUBLISH_GATHER_MS = 10
"""The same for what they write, of which several others are told."""


class StageProcess:
    """One stage of the topology as a process: adapters, stage, engine and health endpoint."""

    def __init__(self, settings: Settings, stage_name: str) -> None:
        """Raises :class:`~fairlane.errors.Reject` if the stage is unknown or an address is missing."""
        try:
            self._spec = topology.on_engines(topology.stage(stage_name), settings.stage_engines)
        except KeyError as failure:
            raise Reject(str(failure.args[0])) from None
        except ValueError as failure:
            raise Reject(f"FAIRLANE_STAGE_ENGINES: {failure}") from None
        needed = {
            "FAIRLANE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "FAIRLANE_REDIS_URL": settings.redis_url if self._spec.name in ("gate", "dispatcher", "settle") else "-",
            "FAIRLANE_CLICKHOUSE_URL": settings.clickhouse_url if self._spec is topology.SINKS else "-",
        }
        for variable, value in needed.items():
            if not value:
                raise Reject(f"{variable} is not set; set it, or start the stack with `fairlane up`")
        if settings.idempotency_ttl_s * 1000 < settings.default_timeout_ms:
            raise Reject("idempotency_ttl_s must cover default_timeout_ms: a request would outlive its identity")
        self._settings = settings
        self._process = settings.instance or f"{stage_name}-0"
        self._names = TopicNames(settings.topic_prefix)
        self._clock = SystemClock()
        self._metrics = PrometheusMetrics()
        self._failed: asyncio.Future[None] | None = None
        self._consumer: KafkaConsumer | None = None
        self._engine: Engine | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until ``stopping`` is set. Raises Fatal or Retry where the process cannot go on."""
        settings = self._settings
        configure_logging(self._spec.name, self._process, settings.log_level)
        log = get_logger(__name__)
        self._failed = asyncio.get_running_loop().create_future()
        async with AsyncExitStack() as stack:
            health = HealthServer(
                self._metrics.exposition,
                healthy=lambda: None,
                ready=self._not_ready,
                host=settings.metrics_host,
                port=settings.metrics_port,
            )
            await health.start()
            stack.push_async_callback(health.stop)
            log.info("stage_starting", port=health.port, engine=self._spec.engine)
            publisher = KafkaPublisher(
                settings.kafka_bootstrap,
                client_id=f"fairlane-{self._process}",
                metrics=self._metrics,
                gather_ms=_PUBLISH_GATHER_MS,
            )
            await publisher.start()
            stack.push_async_callback(publisher.stop)
            reader = KafkaReader(settings.kafka_bootstrap)
            await reader.start()
            stack.push_async_callback(reader.stop)
            follower = ConfigFollower(reader, self._names.tenants, self._names.catalog, self._metrics)
            engine = await self._build(stack, publisher, reader, follower)
            self._engine = engine
            following = asyncio.create_task(follower.run(stopping), name="config")
            running = asyncio.create_task(engine.run(stopping), name="engine")
            try:
                await asyncio.wait({running, following, self._failed}, return_when=asyncio.FIRST_COMPLETED)
                if self._failed.done():
                    self._failed.result()
                if not stopping.is_set() and following.done():
                    following.result()
                await running
            finally:
                for task in (running, following):
                    task.cancel()
                await asyncio.gather(running, following, return_exceptions=True)
        log.info("stage_stopped")

    def _not_ready(self) -> str | None:
        if self._engine is None:
            return "starting"
        return None if self._engine.ready else "waiting for partitions"

    def _fail(self, failure: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(failure)

    def _lease_ok(self) -> bool:
        member = self._engine if isinstance(self._engine, FaustEngine) else self._consumer
        return member is not None and member.lease_ok()

    async def _build(
        self, stack: AsyncExitStack, publisher: KafkaPublisher, reader: KafkaReader, follower: ConfigFollower
    ) -> Engine:
        builders: dict[str, Callable[[], Engine]] = {
            "gate": lambda: self._gate(stack, publisher, reader, follower),
            "dispatcher": lambda: self._dispatcher(stack, publisher, reader, follower),
            "worker": lambda: self._worker(stack, publisher, reader, follower),
            "settle": lambda: self._settle(stack, publisher, reader, follower),
            "sinks": lambda: self._sinks(stack, reader),
        }
        await follower.start()
        return builders[self._spec.name]()

    def _store(self, stack: AsyncExitStack, reader: KafkaReader, follower: ConfigFollower) -> AdmissionStore:
        settings = self._settings
        redis = RedisAdmissionStore(settings.redis_url, settings.topic_prefix)
        stack.push_async_callback(redis.close)
        rebuild = StoreRebuild(
            names=self._names,
            reader=reader,
            store=redis,
            pools=lambda: follower.view.pools.keys() | follower.view.retired_pools,
            groups=Groups(
                dispatcher=topology.DISPATCHER.group(settings.group_prefix),
                worker=topology.WORKER.group(settings.group_prefix),
                settle=topology.SETTLE.group(settings.group_prefix),
            ),
            clock=self._clock,
            metrics=self._metrics,
            idempotency_ttl_s=settings.idempotency_ttl_s,
        )
        store = RebuildingStore(redis, rebuild.run, self._fail)
        stack.push_async_callback(store.close)
        if self._spec.name == topology.SETTLE.name:
            store.watch()
        return MeasuredAdmissionStore(store, self._clock, self._metrics)

    def _gate(
        self, stack: AsyncExitStack, publisher: KafkaPublisher, reader: KafkaReader, follower: ConfigFollower
    ) -> Engine:
        settings = self._settings
        gate = Gate(
            names=self._names,
            publisher=publisher,
            reader=reader,
            store=self._store(stack, reader, follower),
            config=lambda: follower.view,
            clock=self._clock,
            metrics=self._metrics,
            settings=GateSettings(
                IntakeLimits(
                    max_request_bytes=settings.max_request_bytes,
                    default_timeout_ms=settings.default_timeout_ms,
                    longest_timeout_ms=settings.idempotency_ttl_s * 1000,
                ),
                settings.idempotency_ttl_s,
            ),
            lease_ok=self._lease_ok,
            fail=self._fail,
        )
        return self._engine_for(gate, reader)

    def _dispatcher(
        self, stack: AsyncExitStack, publisher: KafkaPublisher, reader: KafkaReader, follower: ConfigFollower
    ) -> Engine:
        dispatcher = Dispatcher(
            names=self._names,
            publisher=publisher,
            reader=reader,
            store=self._store(stack, reader, follower),
            config=lambda: follower.view,
            clock=self._clock,
            metrics=self._metrics,
            worker_group=topology.WORKER.group(self._settings.group_prefix),
            lease_ok=self._lease_ok,
            fail=self._fail,
            cancels_kept_ms=self._settings.idempotency_ttl_s * 1000,
        )
        follower.add_listener(dispatcher.configured)
        return self._engine_for(dispatcher, reader)

    def _worker(
        self, stack: AsyncExitStack, publisher: KafkaPublisher, reader: KafkaReader, follower: ConfigFollower
    ) -> Engine:
        providers: dict[str, Provider] = {
            "openai-compatible": OpenAICompatibleProvider(self._clock),
            "openai-sdk": OpenAISdkProvider(self._clock),
        }
        for provider in providers.values():
            stack.push_async_callback(provider.close)
        keys = ProviderKeys(os.environ.get)
        keys.configured(follower.view)
        follower.add_listener(keys.configured)
        worker = Worker(
            names=self._names,
            publisher=publisher,
            reader=reader,
            providers=providers,
            config_version=lambda: follower.view.version,
            clock=self._clock,
            metrics=self._metrics,
            process=self._process,
            lease_ok=self._lease_ok,
            fail=self._fail,
        )
        return self._engine_for(worker, reader)

    def _settle(
        self, stack: AsyncExitStack, publisher: KafkaPublisher, reader: KafkaReader, follower: ConfigFollower
    ) -> Engine:
        settle = Settle(
            names=self._names,
            publisher=publisher,
            reader=reader,
            store=self._store(stack, reader, follower),
            config_version=lambda: follower.view.version,
            clock=self._clock,
            metrics=self._metrics,
            idempotency_ttl_s=self._settings.idempotency_ttl_s,
            lease_ok=self._lease_ok,
        )
        return self._engine_for(settle, reader)

    def _sinks(self, stack: AsyncExitStack, reader: KafkaReader) -> Engine:
        settings = self._settings
        writer = ClickHouseWriter(settings.clickhouse_url, settings.clickhouse_database)
        stack.push_async_callback(writer.close)
        return SinkRunner(
            self._kafka_consumer(partition_fetch_bytes=_SINK_FETCH_BYTES, fetch_min_bytes=_SINK_FETCH_BYTES),
            reader,
            writer,
            feeds_by_topic(settings.topic_prefix),
            self._clock,
            self._metrics,
            batch_rows=settings.sink_batch_rows,
            batch_ms=settings.sink_batch_ms,
            drain_timeout_ms=settings.drain_timeout_ms,
        )

    def _engine_for(self, stage: Stage, reader: KafkaReader) -> Engine:
        settings, spec = self._settings, self._spec
        if spec.engine == "faust":
            return FaustEngine(
                stage,
                stage_name=spec.name,
                bootstrap=settings.kafka_bootstrap,
                group=spec.group(settings.group_prefix),
                topics=[topic.full_name(settings.topic_prefix) for topic in spec.inputs],
                instance=settings.instance or None,
                reader=reader,
                clock=self._clock,
                metrics=self._metrics,
                batch_max_records=settings.batch_max_records,
                window_records=settings.window_records,
                commit_interval_ms=settings.commit_interval_ms,
                session_timeout_ms=settings.session_timeout_ms,
                drain_timeout_ms=settings.drain_timeout_ms,
                data_dir=Path(settings.state_dir) / "faust" / self._process,
                # A hold that is released a moment later harms nobody; a round trip for each result costs the most here.
                broker_gathers=spec.name == topology.SETTLE.name,
                committed_only=spec.name == topology.GATE.name,
            )
        return LoopEngine(
            self._kafka_consumer(),
            stage,
            self._clock,
            self._metrics,
            stage_name=spec.name,
            batch_max_records=settings.batch_max_records,
            window_records=settings.window_records,
            commit_interval_ms=settings.commit_interval_ms,
            drain_timeout_ms=settings.drain_timeout_ms,
        )

    def _kafka_consumer(
        self, partition_fetch_bytes: int = PARTITION_FETCH_BYTES, fetch_min_bytes: int = 1
    ) -> KafkaConsumer:
        settings, spec = self._settings, self._spec
        dispatcher = spec is topology.DISPATCHER
        plain = [topic.full_name(settings.topic_prefix) for topic in spec.inputs if not topic.per_pool]
        self._consumer = KafkaConsumer(
            settings.kafka_bootstrap,
            spec.group(settings.group_prefix),
            topics=plain,
            pattern=None if plain else _pattern(settings.topic_prefix, spec),
            instance=settings.instance,
            session_timeout_ms=settings.dispatcher_session_timeout_ms if dispatcher else settings.session_timeout_ms,
            assignor=pool_assignor() if dispatcher else None,
            partition_fetch_bytes=partition_fetch_bytes,
            fetch_min_bytes=fetch_min_bytes,
            gather_ms=_GATHER_MS.get(spec.name, 0),
            # Tenants write what it reads, and a transaction that was aborted has asked for nothing.
            committed_only=spec.name == topology.GATE.name,
        )
        return self._consumer


def _pattern(prefix: str, spec: StageSpec) -> str:
    """Matches the topics of all pools."""

    def of(topic: TopicSpec) -> str:
        return re.escape(prefix + topic.name.format(pool="")) + ".+"

    return "^(" + "|".join(of(topic) for topic in spec.inputs) + ")$"


async def run_stage(settings: Settings, stage_name: str, stopping: asyncio.Event) -> None:
    """Run one stage until ``stopping`` is set; see :class:`StageProcess`."""
    try:
        await StageProcess(settings, stage_name).run(stopping)
    except Fatal as failure:
        get_logger(__name__).error("stage_failed", error=str(failure))
        raise
