"""Follows the ``tenants`` and ``catalog`` topics, so that a stage always decides by what is applied.

Every process reads both topics whole at its start (they are compacted, so that is little) and then
follows them. A record that is not as its contract says is logged, counted and skipped: the value
applied before stays in force, and no stage stops over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence

from fairlane.agents.config_view import ConfigFold, ConfigView, ModelEntry
from fairlane.errors import Poison, Retry
from fairlane.ports import LogReader, Record
from fairlane.telemetry import Metrics, get_logger

__all__ = ["ConfigFollower", "ConfigView", "ModelEntry"]

PARTITIONS_S = 10.0
"""How often a topic is asked whether it has more partitions."""

Listener = Callable[[ConfigView], None]

_log = get_logger(__name__)


class ConfigFollower:
    """The one holder of the current :class:`ConfigView` in a process."""

    def __init__(
        self,
        reader: LogReader,
        tenants_topic: str,
        catalog_topic: str,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``monotonic`` gives seconds that only go forward."""
        self._reader = reader
        self._monotonic = monotonic
        self._metrics = metrics
        self._fold = ConfigFold()
        self._take: Mapping[str, Callable[[Record], None]] = {
            tenants_topic: self._fold.take_tenant,
            catalog_topic: self._fold.take_catalog,
        }
        self._next: dict[str, dict[int, int]] = {}
        self._view = self._fold.view
        self._listeners: list[Listener] = []

    @property
    def view(self) -> ConfigView:
        """What is applied now. Take it once per decision: the next call may give a newer one."""
        return self._view

    def add_listener(self, listener: Listener) -> None:
        """Call this with every new view from now on, in the task of :meth:`run`; it must not block."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Read both topics to their present ends. Raises Retry while the log cannot be read."""
        ends: list[Mapping[int, int]] = []
        for topic in self._take:
            topic_ends = await self._reader.ends(topic)
            starts = await self._reader.starts(topic)
            async for batch in self._reader.read(topic, starts, topic_ends):
                self._apply(topic, batch)
            self._next[topic] = dict(topic_ends)
            ends.append(topic_ends)
        self._fold.reached(*ends)
        self._publish()

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow both topics until ``stopping`` is set. Call :meth:`start` first.

        While the log cannot be read, the last view stays in force.
        """
        async with asyncio.TaskGroup() as tasks:
            for topic in self._take:
                tasks.create_task(self._follow(topic, stopping), name=f"follow {topic}")

    async def _follow(self, topic: str, stopping: asyncio.Event) -> None:
        positions = self._next[topic]
        while not stopping.is_set():
            try:
                counted_at = self._monotonic()
                async with _closing(self._reader.read(topic, dict(positions))) as batches:
                    async for batch in batches:
                        if stopping.is_set():
                            return
                        if batch:
                            self._apply(topic, batch)
                            for record in batch:
                                positions[record.partition] = record.offset + 1
                            self._publish()
                        if self._monotonic() - counted_at >= PARTITIONS_S:
                            counted_at = self._monotonic()
                            if await self._partitions_added(topic, positions):
                                break
            except Retry as failure:
                _log.warning("configuration cannot be read", topic=topic, reason=str(failure), after_s=failure.after)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), failure.after)

    async def _partitions_added(self, topic: str, positions: dict[int, int]) -> bool:
        """Whether the topic has partitions that are not followed yet; they are from now on, from their start."""
        starts = await self._reader.starts(topic)
        added = {partition: starts[partition] for partition in starts.keys() - positions.keys()}
        positions.update(added)
        return bool(added)

    def _apply(self, topic: str, batch: Iterable[Record]) -> None:
        for record in batch:
            try:
                self._take[topic](record)
            except Poison as failure:
                outcome = "skipped"
                _log.warning(
                    "configuration record skipped",
                    topic=topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=str(failure),
                )
            else:
                outcome = "applied"
            self._metrics.inc("config_records_total", topic=topic, outcome=outcome)

    def _publish(self) -> None:
        self._view = self._fold.view
        for listener in self._listeners:
            listener(self._view)


@contextlib.asynccontextmanager
async def _closing(batches: AsyncIterator[Sequence[Record]]) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
    """Closes a generator left in the middle now, not when it is collected."""
    try:
        yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()
