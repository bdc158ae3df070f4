"""Both engines keep one behaviour on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fairlane.clock import SystemClock
from fairlane.ports import Engine, LogConsumer
from fairlane.streams.engines.faust import FaustEngine
from fairlane.streams.engines.loop import LoopEngine
from fairlane.telemetry import NO_METRICS
from tests.contract.engine_behaviour import EngineBehaviour, RememberingStage
from tests.integration.kafka_log import SESSION_TIMEOUT_MS, KafkaLogUnderTest

COMMIT_INTERVAL_MS = 50
DRAIN_TIMEOUT_MS = 10_000


class RunningEngine:
    def __init__(self, world: KafkaLogUnderTest, engine: Engine, consumer: LogConsumer | None = None) -> None:
        self.engine = engine
        self._world = world
        self._consumer = consumer
        self._stopping = asyncio.Event()
        self.running = asyncio.create_task(engine.run(self._stopping))

    async def stop(self) -> None:
        self._stopping.set()
        await self.running

    async def kill(self) -> None:
        if self._consumer is not None:
            await self._world.kill(self._consumer)
        self.running.cancel()
        await asyncio.wait([self.running])


class LoopWorld(KafkaLogUnderTest):
    async def process(
        self, stage: RememberingStage, group: str, topic: str, *, window: int = 1_000, batch: int = 100
    ) -> RunningEngine:
        consumer = self.consumer(group, [topic])
        engine = LoopEngine(
            consumer,
            stage,
            SystemClock(),
            NO_METRICS,
            stage_name="worker",
            batch_max_records=batch,
            window_records=window,
            commit_interval_ms=COMMIT_INTERVAL_MS,
            drain_timeout_ms=DRAIN_TIMEOUT_MS,
        )
        return RunningEngine(self, engine, consumer)


class FaustWorld(KafkaLogUnderTest):
    def __init__(self, bootstrap: str, folder: Path) -> None:
        super().__init__(bootstrap)
        self._folder = folder
        self._processes = 0

    async def process(
        self, stage: RememberingStage, group: str, topic: str, *, window: int = 1_000, batch: int = 100
    ) -> RunningEngine:
        self._processes += 1
        engine = FaustEngine(
            stage,
            stage_name="gate",
            bootstrap=self.bootstrap,
            group=group,
            topics=[topic],
            instance=None,
            reader=self.reader,
            clock=SystemClock(),
            metrics=NO_METRICS,
            batch_max_records=batch,
            window_records=window,
            commit_interval_ms=COMMIT_INTERVAL_MS,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            drain_timeout_ms=DRAIN_TIMEOUT_MS,
            data_dir=self._folder / f"process-{self._processes}",
        )
        return RunningEngine(self, engine)


class TestLoopEngineOnKafka(EngineBehaviour):
    @pytest.fixture
    async def world(self, kafka_bootstrap: str) -> AsyncIterator[LoopWorld]:
        async with LoopWorld(kafka_bootstrap) as world:
            yield world


class TestFaustEngineOnKafka(EngineBehaviour):
    @pytest.fixture
    async def world(self, kafka_bootstrap: str, tmp_path: Path) -> AsyncIterator[FaustWorld]:
        async with FaustWorld(kafka_bootstrap, tmp_path) as world:
            yield world
