"""Runs the sinks: every record of the public topics into its table exactly once, whatever dies in between.

For each batch of a partition: (1) commit the unchanged offset with the batch's range in the metadata, (2) insert
under a token made of that range, (3) commit the offset behind it; under load (3) goes with the next (1).
Whoever owns the partition next finds the range, rebuilds exactly that batch and inserts it under the
same token, which changes nothing if the rows were already there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from fairlane.clock import Clock
from fairlane.errors import Retry
from fairlane.ports import LogConsumer, LogReader, OwnershipLost, Position, TopicPartition
from fairlane.sinks.base import Batch, PartitionBuffer
from fairlane.sinks.inserter import Inserter
from fairlane.sinks.pacing import Pace
from fairlane.sinks.partition import OwnedPartition
from fairlane.sinks.restore import Restorer
from fairlane.sinks.tables import Feed
from fairlane.sinks.winners import RecentKeys
from fairlane.sinks.writer import RowWriter
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

_STAGE = "sinks"
_POLL_RECORDS = 1000
_POLL_IN_ROUND_MS = 20
_INSERTS_AT_ONCE = 2
_INSERT_SHARE = 0.07
"""A round over all partitions takes 0.15 s on two cores, so small inserts come every two seconds."""
_WORTHWHILE_ROWS = 1000
_REVOKE_WAIT_S = 3.0
_ROUND_BATCHES = 2
"""A round takes partitions until it holds this many full batches, so that a successor has little to rebuild."""
_BUFFER_BATCHES = 4
"""Reading pauses when this many full batches wait."""

_Chosen = Sequence[tuple[OwnedPartition, Batch]]


class SinkRunner:
    """An :class:`~fairlane.ports.Engine` that fills tables from ``feeds`` (keyed by the topic's full name).

    ``batch_rows`` and ``batch_ms`` bound one insert; ``recent_offsets`` is how far back a second record of a key is
    recognised. While ClickHouse is away rows wait in memory up to a limit, the rest in the log.
    """

    def __init__(
        self,
        consumer: LogConsumer,
        reader: LogReader,
        writer: RowWriter,
        feeds: Mapping[str, Feed],
        clock: Clock,
        metrics: Metrics,
        *,
        batch_rows: int,
        batch_ms: int,
        drain_timeout_ms: int,
        recent_offsets: int = 10_000,
        poll_ms: int = 100,
    ) -> None:
        self._consumer = consumer
        self._feeds = dict(feeds)
        self._clock = clock
        self._metrics = metrics
        self._batch_rows = batch_rows
        self._batch_age_s = batch_ms / 1000
        self._drain_timeout_s = drain_timeout_ms / 1000
        self._recent_offsets = recent_offsets
        self._poll_ms = poll_ms
        self._restorer = Restorer(consumer, reader, recent_offsets)
        self._inserter = Inserter(writer, clock, metrics, at_once=_INSERTS_AT_ONCE)
        self._pace = Pace(_INSERT_SHARE, min(batch_rows, _WORTHWHILE_ROWS))
        self._owned: dict[TopicPartition, OwnedPartition] = {}
        self._paused: frozenset[TopicPartition] = frozenset()
        self._overfull = False
        self._joined = False
        self._assignments = 0
        self._not_before = 0.0
        self._trouble = ""
        self._round: asyncio.Task[bool] | None = None
        self._restoring: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the group is joined and every owned partition is restored."""
        return self._joined and all(part.buffer is not None for part in self._owned.values())

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until ``stopping``; then insert what is buffered, commit and leave. Raises Fatal."""
        started = False
        try:
            while not stopping.is_set():
                try:
                    if not started:
                        await self._consumer.start(self)
                        started = True
                    await self._step()
                except Retry as failure:
                    _log.warning("the log is away; trying again", reason=str(failure))
                    await _sleep_unless(stopping, failure.after)
            await self._drain()
        finally:
            await _cancel(self._restoring)
            await _cancel(self._round)
            await self._consumer.stop()

    async def _step(self) -> None:
        self._reap()
        self._start_restoring()
        self._start_round()
        self._pause_or_resume()
        timeout_ms = self._poll_ms if self._round is None else min(self._poll_ms, _POLL_IN_ROUND_MS)
        for tp, records in (await self._consumer.poll(_POLL_RECORDS, timeout_ms)).items():
            if (part := self._owned.get(tp)) is not None:
                part.take(records, self._clock.monotonic())

    # --- ownership ---

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Go on with what stayed; what is new is read once it is restored."""
        stayed = self._consumer.kept() & self._owned.keys()
        self._owned = {tp: self._owned[tp] if tp in stayed else self._fresh(tp) for tp in sorted(partitions)}
        for tp, part in self._owned.items():
            if part.buffer is not None:
                self._consumer.seek(tp, part.buffer.following)
        self._paused = frozenset()  # an assignment resumes all
        self._pause_or_resume()
        self._joined = True
        self._assignments += 1
        self._metrics.set("engine_assigned_partitions", len(self._owned), stage=_STAGE)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Let the inserts that run end, briefly. What is not committed then, the next owner rebuilds."""
        await _cancel(self._restoring)
        if self._round is not None:
            await asyncio.wait([self._round], timeout=_REVOKE_WAIT_S)
            await _cancel(self._round)
        try:
            await self._commit({tp: part.position() for tp, part in self._owned.items() if part.uncommitted})
        except (Retry, OwnershipLost) as failure:
            _log.info("revoked before the last commit; the next owner rebuilds the batch", reason=str(failure))

    def _fresh(self, tp: TopicPartition) -> OwnedPartition:
        return OwnedPartition(tp, self._feeds[tp.topic], RecentKeys(self._recent_offsets), self._metrics)

    def _start_restoring(self) -> None:
        waiting = [tp for tp, part in self._owned.items() if part.buffer is None]
        if waiting and self._restoring is None and self._clock.monotonic() >= self._not_before:
            for tp in waiting:
                self._owned[tp] = self._fresh(tp)  # a try that failed may have noted keys out of order
            self._restoring = asyncio.create_task(self._restore([self._owned[tp] for tp in waiting]))

    async def _restore(self, parts: Sequence[OwnedPartition]) -> None:
        try:
            found = await self._restorer.restore(parts)
        except Retry as failure:
            self._wait(failure)
            return
        for part in parts:
            if self._owned.get(part.tp) is part:
                base, intended = found[part.tp]
                part.buffer = PartitionBuffer(base, self._batch_rows, self._batch_age_s, intended)
                self._consumer.seek(part.tp, base)
                if intended is not None:
                    _log.info("rebuilding an intended batch", topic=part.tp.topic, partition=part.tp.partition,
                              first_offset=intended.first, last_offset=intended.last)  # fmt: skip

    # --- inserting ---

    def _start_round(self, *, everything: bool = False) -> None:
        now = self._clock.monotonic()
        if self._round is None and now >= self._not_before:
            chosen = self._choose(now, everything=everything)
            if chosen or any(part.uncommitted for part in self._owned.values()):
                self._round = asyncio.create_task(self._insert_round(chosen))

    def _choose(self, now: float, *, everything: bool) -> _Chosen:
        due = [
            (part, part.buffer)
            for part in self._owned.values()
            if part.buffer is not None and part.buffer.due(now, everything=everything)
        ]
        if not due:
            return []
        mean = sum(min(len(buffer), self._batch_rows) for _, buffer in due) / len(due)
        if not (everything or self._overfull or self._pace.may_start(now, mean)):
            return []
        chosen: list[tuple[OwnedPartition, Batch]] = []
        rows = 0
        for part, buffer in sorted(due, key=lambda pair: pair[1].waiting_since):
            batch = buffer.take(now, everything=everything)
            assert batch is not None  # it was due
            chosen.append((part, batch))
            rows += len(batch.entries)
            if rows >= _ROUND_BATCHES * self._batch_rows:
                break
        return chosen

    async def _insert_round(self, chosen: _Chosen) -> bool:
        """Announce, insert, mark; False if something is to be tried again."""
        asked_in = self._assignments
        try:
            await self._announce(chosen)
        except Retry as failure:
            self._wait(failure)
            return False
        except OwnershipLost:
            # The consumer joins again in one of the next polls and says what it owns then. If it has said so
            # since this was asked, that counts: what is let go of now nobody would assign again.
            if asked_in == self._assignments:
                self._owned = {}
            return False
        if not chosen:
            return True
        started = self._clock.monotonic()
        outcomes = await asyncio.gather(*(self._inserter.insert(*pair) for pair in chosen), return_exceptions=True)
        self._pace.spent(started, self._clock.monotonic())
        refused: list[Retry] = []
        for (part, _), outcome in zip(chosen, outcomes, strict=True):
            if isinstance(outcome, Retry):
                refused.append(outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                part.inserted()
        if refused:
            self._wait(max(refused, key=lambda failure: failure.after))
        else:
            self._trouble = ""
        return not refused

    async def _announce(self, chosen: _Chosen) -> None:
        positions = {tp: part.position() for tp, part in self._owned.items() if part.uncommitted}
        positions |= {part.tp: part.announcement(batch) for part, batch in chosen if part.announced is not batch}
        await self._commit(positions)
        for part, batch in chosen:
            part.announced = batch

    async def _commit(self, positions: Mapping[TopicPartition, Position]) -> None:
        if not positions:
            return
        try:
            await self._consumer.commit(positions)
        except Retry:
            self._metrics.inc("engine_commits_total", stage=_STAGE, outcome="retry")
            raise
        except OwnershipLost:
            self._metrics.inc("engine_commits_total", stage=_STAGE, outcome="lost")
            raise
        self._metrics.inc("engine_commits_total", stage=_STAGE, outcome="ok")
        for tp in positions:
            if (part := self._owned.get(tp)) is not None:
                part.uncommitted = False

    # --- bounds, failures, the end ---

    def _pause_or_resume(self) -> None:
        rows = sum(len(part.buffer) for part in self._owned.values() if part.buffer is not None)
        limit = _BUFFER_BATCHES * self._batch_rows
        self._overfull = rows >= limit or (self._overfull and rows > limit // 2)
        # A partition that waits for the rest of its range is read on: its batch would never be complete.
        wanted = frozenset(
            tp
            for tp, part in self._owned.items()
            if part.buffer is None or (self._overfull and not part.buffer.restoring)
        )
        if new := wanted - self._paused:
            self._consumer.pause(new)
        if old := (self._paused - wanted) & self._owned.keys():
            self._consumer.resume(old)
        self._paused = wanted
        self._metrics.set("sink_buffered_rows", rows)

    def _wait(self, failure: Retry) -> None:
        self._not_before = self._clock.monotonic() + failure.after
        if str(failure) != self._trouble:
            self._trouble = str(failure)
            _log.warning("rows wait; trying again until it works", reason=self._trouble)

    def _reap(self) -> None:
        """Forget tasks that ended; what they raised is raised here."""
        if self._round is not None and self._round.done():
            ended, self._round = self._round, None
            if not ended.cancelled():
                ended.result()
        if self._restoring is not None and self._restoring.done():
            restored, self._restoring = self._restoring, None
            if not restored.cancelled():
                restored.result()

    async def _drain(self) -> None:
        """Insert and commit what is here; give up where ClickHouse refuses, for the log has it all."""
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                while self._round is None or await self._round:
                    self._reap()
                    self._start_round(everything=True)
                    if self._round is None:
                        return
        except TimeoutError:
            _log.warning("stopping before everything buffered was inserted; it is in the log")


async def _sleep_unless(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


async def _cancel(task: asyncio.Task[Any] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task])
