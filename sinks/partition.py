"""One owned partition of a sink: its records in order become entries, each key's first one a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairlane.errors import Poison
from fairlane.ports import Position, Record, TopicPartition
from fairlane.schemas.codec import DecodeError, decode
from fairlane.sinks.base import Batch, Entry, PartitionBuffer
from fairlane.sinks.tables import Feed
from fairlane.sinks.winners import RecentKeys
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)


@dataclass(slots=True)
class OwnedPartition:
    """State of a partition between assignment and revocation.

    ``buffer`` is None until the partition is restored; records that come before are not taken.
    """

    tp: TopicPartition
    feed: Feed
    recent: RecentKeys
    metrics: Metrics
    buffer: PartitionBuffer | None = None
    announced: Batch | None = None
    """The batch whose range is committed."""
    uncommitted: bool = False
    """Whether rows below the buffer's base are in the table but the offset is not committed yet."""

    def take(self, records: Sequence[Record], now: float) -> None:
        """Turn records into entries of the buffer; what it has already is not taken twice."""
        if self.buffer is not None:
            following = self.buffer.following
            self.buffer.add(self._entries([record for record in records if record.offset >= following]), now)

    def remember(self, records: Sequence[Record]) -> None:
        """Note the keys of records before the committed offset."""
        if self.feed.key is not None:
            self._entries(records, quiet=True)

    def token(self, batch: Batch) -> str:
        """The deduplication token of a batch."""
        return batch.range.token(self.feed.table.name, self.tp)

    def announcement(self, batch: Batch) -> Position:
        """What to commit before the batch is inserted: the same offset, with the range beside it."""
        assert self.buffer is not None
        return Position(self.buffer.base, batch.range.metadata())

    def position(self) -> Position:
        """What to commit when nothing is announced."""
        assert self.buffer is not None
        return Position(self.buffer.base)

    def inserted(self) -> None:
        """The taken batch is in the table."""
        assert self.buffer is not None
        self.buffer.finish()
        self.announced = None
        self.uncommitted = True

    def _entries(self, records: Sequence[Record], *, quiet: bool = False) -> list[Entry]:
        entries: list[Entry] = []
        refused: list[tuple[int, str]] = []
        repeated = 0
        for record in records:
            row = None
            try:
                model = decode(self.feed.model, record.value or b"")
                row = self.feed.entry(model, record)
                if self.feed.key is not None and not self.recent.first_time(
                    self.feed.key(model, record), record.offset
                ):
                    row = None
                    repeated += 1
            except (DecodeError, Poison) as failure:
                row = None
                refused.append((record.offset, str(failure)))
            entries.append(row if row is not None else Entry(record.offset, None))
        if not quiet:
            self._report(refused, repeated)
        return entries

    def _report(self, refused: list[tuple[int, str]], repeated: int) -> None:
        table = self.feed.table.name
        if repeated:
            self.metrics.inc("sink_skipped_total", repeated, table=table, reason="repeated")
        if refused:
            self.metrics.inc("sink_skipped_total", len(refused), table=table, reason="undecodable")
            offset, why = refused[0]
            # One line for all: a producer of garbage must not fill the disk with our log.
            _log.warning(
                "records are not what the topic holds; they get no row",
                topic=self.tp.topic, partition=self.tp.partition, count=len(refused), first_offset=offset, reason=why,
            )  # fmt: skip
