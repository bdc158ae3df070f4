"""One batch into its table."""

from __future__ import annotations

import asyncio

from fairlane.clock import Clock
from fairlane.errors import Retry
from fairlane.sinks.base import Batch
from fairlane.sinks.partition import OwnedPartition
from fairlane.sinks.writer import RowWriter
from fairlane.telemetry import Metrics


class Inserter:
    """Inserts batches of different partitions, at most ``at_once`` at a time."""

    def __init__(self, writer: RowWriter, clock: Clock, metrics: Metrics, *, at_once: int) -> None:
        self._writer = writer
        self._clock = clock
        self._metrics = metrics
        self._slots = asyncio.Semaphore(at_once)

    async def insert(self, part: OwnedPartition, batch: Batch) -> None:
        """Insert the rows of a batch that count; raises Retry."""
        table = part.feed.table
        async with self._slots:
            started = self._clock.monotonic()
            try:
                rows = await self._rows(part, batch)
                if rows:
                    await self._writer.insert(table, rows, part.token(batch))
            except Retry:
                self._metrics.inc("sink_inserts_total", table=table.name, outcome="retry")
                raise
        if rows:
            self._metrics.inc("sink_inserts_total", table=table.name, outcome="ok")
            self._metrics.inc("sink_rows_total", len(rows), table=table.name)
            self._metrics.observe("sink_insert_rows", len(rows), table=table.name)
            self._metrics.observe("sink_insert_seconds", self._clock.monotonic() - started, table=table.name)

    async def _rows(self, part: OwnedPartition, batch: Batch) -> list[tuple[object, ...]]:
        asked = sorted({entry.unless_present for entry in batch.entries if entry.unless_present is not None})
        if not asked:
            return [entry.row for entry in batch.entries if entry.row is not None]
        present = await self._writer.present(asked, part.tp, batch.range.first)
        rows = [e.row for e in batch.entries if e.row is not None and e.unless_present not in present]
        repeated = sum(e.row is not None for e in batch.entries) - len(rows)
        if repeated:
            self._metrics.inc("sink_skipped_total", repeated, table=part.feed.table.name, reason="repeated")
        return rows
