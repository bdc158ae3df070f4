"""What is asked again and again while a fault goes on: lag of all groups, and the tenants' figures."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from fairlane.adapters.kafka_closing import stop_consumer
from fairlane.errors import Retry
from fairlane.ports import TenantUsage
from fairlane.streams.topology import SETTLE, SINKS, STAGES
from tests.chaos.chaos_stack import ChaosStack
from tests.chaos.stack_config import MAIN_POOL

LAG_EVERY_S = 0.75
USAGE_EVERY_S = 0.2
ANSWER_S = 2.0
STOP_S = 10.0


class UsageSample(NamedTuple):
    """A tenant's figures, with the time they were asked and answered."""

    began_s: float
    answered_s: float
    tenant: str
    usage: TenantUsage


class Booked(NamedTuple):
    """How far settle had committed the results at a time: the next offset of each partition."""

    at_s: float
    offsets: dict[int, int]


class Probes:
    """Runs from :meth:`start` to :meth:`stop`."""

    def __init__(self, stack: ChaosStack) -> None:
        self._stack = stack
        self._tasks: list[asyncio.Task[None]] = []
        self.lags: dict[str, list[tuple[float, float]]] = {"path": [], "sinks": []}
        """When asked, and records behind the commits of the groups; infinity where there was no answer. What waits in
        the narrow pool is not counted: it is flooded on purpose."""
        self.usage: list[UsageSample] = []
        self.booked: list[Booked] = []
        self._stopping = asyncio.Event()
        self._clients: tuple[Any, Any] | None = None
        self._topics: dict[str, list[TopicPartition]] = {}

    async def start(self) -> None:
        """Begin asking."""
        self._tasks = [asyncio.create_task(self._ask_lag()), asyncio.create_task(self._ask_usage())]

    async def stop(self) -> None:
        """Ask no more. Raises what ended a probe before its time."""
        # Not cancelled: the clients can take a cancellation for the end of a wait of their own, and go on.
        self._stopping.set()
        done: set[asyncio.Task[None]] = set()
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks, timeout=STOP_S)
        await self._disconnect()
        for task in done:
            task.result()

    async def _ask_lag(self) -> None:
        while not self._stopping.is_set():
            began = time.time()
            try:
                async with asyncio.timeout(ANSWER_S):
                    behind = await self._behind()
            except (KafkaError, OSError, TimeoutError):
                behind = dict.fromkeys(self._topics, math.inf)
                await self._disconnect()
            sinks = behind.get(SINKS.name, math.inf)
            self.lags["sinks"].append((began, sinks))
            self.lags["path"].append((began, sum(behind.values()) - sinks if sinks < math.inf else math.inf))
            await self._pause(began + LAG_EVERY_S)

    async def _pause(self, until_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until_s - time.time())):
                await self._stopping.wait()

    async def _behind(self) -> dict[str, float]:
        if self._clients is None:
            await self._connect()
        assert self._clients is not None
        admin, consumer = self._clients
        prefix = self._stack.settings.group_prefix
        every = [tp for partitions in self._topics.values() for tp in partitions]
        ends = await consumer.end_offsets(every)
        behind: dict[str, float] = {}
        for group, partitions in self._topics.items():
            committed = await admin.list_consumer_group_offsets(prefix + group)
            if group == SETTLE.name:
                # The results are all it reads.
                own = {tp.partition: committed[tp].offset for tp in partitions if tp in committed}
                self.booked.append(Booked(time.time(), own))
            behind[group] = sum(ends[tp] - (committed[tp].offset if tp in committed else 0) for tp in partitions)
        return behind

    async def _connect(self) -> None:
        settings = self._stack.settings
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, request_timeout_ms=2000)
        consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, enable_auto_commit=False)
        self._clients = (admin, consumer)
        await admin.start()
        await consumer.start()
        await consumer._client.force_metadata_update()
        for stage in STAGES:
            names = [
                topic.full_name(settings.topic_prefix, pool)
                for topic in stage.inputs
                for pool in ((MAIN_POOL,) if topic.per_pool else (None,))
            ]
            self._topics[stage.name] = [
                TopicPartition(name, number) for name in names for number in consumer.partitions_for_topic(name) or ()
            ]

    async def _disconnect(self) -> None:
        clients, self._clients = self._clients, None
        if clients is None:
            return
        admin, consumer = clients
        closing = [asyncio.create_task(admin.close()), asyncio.create_task(stop_consumer(consumer))]
        await asyncio.wait(closing, timeout=ANSWER_S)

    async def _ask_usage(self) -> None:
        while not self._stopping.is_set():
            began = time.time()
            try:
                figures = await self._stack.usage()
            except Retry:
                figures = {}
            self.usage += [UsageSample(began, time.time(), tenant, usage) for tenant, usage in figures.items()]
            await self._pause(began + USAGE_EVERY_S)
