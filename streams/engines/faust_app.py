"""A Faust application that runs inside our event loop and does nothing we did not ask for.

No worker, no signals, no web server, no topics of its own, no producer, no leader election, no
variables of the environment, no files outside of the directory it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.serializers.schemas import Schema
from faust.tables.manager import TableManager

from fairlane.streams.engines.faust_consumer import BatchTransport, Feed, Polled

PARTITION_FETCH_BYTES = 262_144
"""One fetch of one partition at most. The driver empties a partition's fetch before it turns to the next
one, so this is what a flooded partition can put in front of the others."""
BUFFER_EVENTS = 65_536
"""Far above the events of one poll: a Faust buffer that fills up pauses partitions for a full second."""
MAX_POLL_INTERVAL_S = 60.0
"""A process whose event loop stands still for longer loses its partitions, though its heartbeats go on."""


class _Boot(BootStrategy):
    enable_kafka_producer = False
    enable_web = False
    enable_sensors = False

    def kafka_consumer(self) -> Iterable[Any]:
        return [self.app.consumer]


class _Tables(TableManager):
    async def on_start(self) -> None:
        # Faust sleeps a second here for tables to be declared late; ours are declared before the start.
        await self._update_channels()
        await self.recovery.start()


class _BatchSchema(Schema):
    """The value of an event is already what the agent takes."""

    def loads_key(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> None:
        return None

    def loads_value(self, app: Any, message: Any, *, loads: Any = None, serializer: Any = None) -> Any:
        return message.value


class EngineApp(faust.App):
    """One stage's application. ``feed`` is the engine, ``on_crash`` is told why Faust gave up."""

    BootStrategy = _Boot

    def __init__(
        self, group: str, *, feed: Feed, on_crash: Callable[[BaseException], None], data_dir: Path, **options: Any
    ) -> None:
        self.feed = feed
        self._on_crash = on_crash
        # Without env={} any variable named like a Faust setting would win over what is set here.
        super().__init__(group, datadir=str(data_dir), env={}, **options)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def on_rebalance_end(self) -> None:
        """Faust's queues are cleared when a rebalance ends; only what is polled later is kept."""
        super().on_rebalance_end()
        self.feed.flowing()

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        # A crash in the consumer's thread arrives in that thread.
        self.loop.call_soon_threadsafe(self._on_crash, reason)

    async def _producer_flush(self, logger: Any) -> None:
        """There is no producer: stages write through their own publisher."""


def build_app(
    *,
    feed: Feed,
    on_crash: Callable[[BaseException], None],
    on_assigned: Callable[[], Awaitable[None]],
    process: Callable[[Polled], Awaitable[None]],
    stage_name: str,
    bootstrap: str,
    group: str,
    topics: Sequence[str],
    instance: str | None,
    commit_interval_ms: int,
    session_timeout_ms: int,
    data_dir: Path,
) -> EngineApp:
    """The application of one stage, not started.

    ``process`` is given what each poll returned, one after the other. ``on_assigned`` is awaited after each
    assignment, while heartbeats go on and before records flow.
    """
    session_s = session_timeout_ms / 1000
    app = EngineApp(
        group,
        feed=feed,
        on_crash=on_crash,
        data_dir=data_dir,
        loop=asyncio.get_running_loop(),
        broker=[f"kafka://{address.strip()}" for address in bootstrap.split(",")],
        broker_client_id=f"fairlane-{stage_name}",
        broker_commit_interval=commit_interval_ms / 1000,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        broker_request_timeout=max(40.0, session_s + 5),
        broker_rebalance_timeout=max(30.0, session_s),
        broker_max_poll_interval=MAX_POLL_INTERVAL_S,
        consumer_group_instance_id=instance or None,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=PARTITION_FETCH_BYTES,
        stream_buffer_maxsize=BUFFER_EVENTS,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        TableManager=_Tables,
    )
    app.on_rebalance_complete.connect(_without_arguments(on_assigned))
    # Acks off: Faust keeps no account of offsets at all, so none of its rules can commit one.
    topic = app.topic(*topics, schema=_BatchSchema(), acks=False)

    async def agent(stream: Any) -> None:
        async for polled in stream:
            await process(polled)

    app.agent(topic, name=stage_name)(agent)
    return app


def _without_arguments(callback: Callable[[], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def receiver(*_: Any, **__: Any) -> None:
        await callback()

    return receiver
