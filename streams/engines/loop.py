"""The loop engine: one task polls a :class:`~fairlane.ports.LogConsumer` and feeds a stage.

For stages whose records finish out of order. What the stage raises is answered by
:mod:`~fairlane.streams.engines.delivery`, what may be committed is kept by
:mod:`~fairlane.streams.engines.ledger`; both are shared with the Faust engine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import stamina

from fairlane.clock import Clock
from fairlane.errors import Fatal, Retry
from fairlane.policy.offsets import decode_metadata
from fairlane.ports import LogConsumer, OwnershipLost, Record, Restored, Stage, TopicPartition
from fairlane.streams.engines.delivery import Delivery
from fairlane.streams.engines.ledger import Ledger
from fairlane.telemetry import Metrics, get_logger

_POLL_MS = 200
"""Longest wait for records: what a stop or a commit may have to wait for."""
_NARROW_POLL_MS = 20
"""The same while some partition is at its window, so that it is read again soon after it has room."""
_FOLLOW_S = 0.05
"""How often the group is followed while the stage is busy."""
_CUT_S = 1.0
"""How long the stage may go on with a call when partitions have gone: their new owner has begun."""
_LAST_COMMIT_S = 5.0
_STALL_S = 60.0
"""Polls may fail for this long; then a new process is tried."""

_log = get_logger(__name__)


class LoopEngine:
    """Feeds one stage and commits what it has done; see :class:`~fairlane.ports.Engine`. Runs once.

    ``window_records`` bounds the unfinished records of a partition, ``batch_max_records`` one call of
    the stage. A partition that stays through a rebalance keeps its window and is read on from where
    it was; one that is new is restored from the commit and its metadata.
    """

    def __init__(
        self,
        consumer: LogConsumer,
        stage: Stage,
        clock: Clock,
        metrics: Metrics,
        *,
        stage_name: str,
        batch_max_records: int,
        window_records: int,
        commit_interval_ms: int,
        drain_timeout_ms: int,
    ) -> None:
        self._consumer = consumer
        self._stage = stage
        self._clock = clock
        self._metrics = metrics
        self._name = stage_name
        self._commit_interval_s = commit_interval_ms / 1000
        self._drain_timeout_s = drain_timeout_ms / 1000
        self._ledger = Ledger(window=window_records, batch=batch_max_records, on_pause=self._on_pause)
        self._delivery = Delivery(
            stage,
            stage_name=stage_name,
            clock=clock,
            metrics=metrics,
            done=self._done,
            is_unfinished=self._ledger.is_unfinished,
        )
        self._owned: frozenset[TopicPartition] = frozenset()
        self._paused: frozenset[TopicPartition] = frozenset()
        self._epoch = self._asked_in = 0
        self._joined = False
        self._taking_in: frozenset[TopicPartition] = frozenset()
        self._work: asyncio.Task[None] | None = None
        self._commit_under_way: asyncio.Task[None] | None = None
        self._to_announce = False
        self._progress = asyncio.Event()
        self._commit_at = self._polled_at = 0.0

    @property
    def ready(self) -> bool:
        """Whether the engine has joined and its stage has taken its partitions."""
        return self._joined and self._ledger.partitions == self._owned

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until ``stopping`` is set, then drain, commit and leave. Raises Fatal.

        When cancelled it leaves without draining and commits nothing more, as after a crash.
        """
        try:
            if not await self._join(stopping):
                return
            try:
                while not stopping.is_set():
                    await self._step(stopping)
                await self._drain()
            except Fatal:
                await self._delivery.close(0.0)
                await self._last_commit()
                raise
            await self._last_commit()
        finally:
            self._joined = False
            for task in (self._work, self._commit_under_way):
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])
            await self._consumer.stop()

    # --- the loop ---------------------------------------------------------------------------------

    async def _join(self, stopping: asyncio.Event) -> bool:
        self._polled_at = _now()
        while not stopping.is_set():
            try:
                await self._consumer.start(self)
                return True
            except Retry as failure:
                await self._outwait(failure, stopping)
        return False

    async def _step(self, stopping: asyncio.Event) -> None:
        """One turn: finish or begin work, read, commit when it is time."""
        if self._work is not None:
            # A stage that only takes its records is done in its first turn, and a turn costs less than a wait.
            await asyncio.sleep(0)
            if not self._work.done():
                await asyncio.wait([self._work], timeout=_FOLLOW_S)
            if self._work.done():
                self._end_work()
        if self._to_announce:
            # Before anything is delivered: a successor knows by it that somebody was at work here.
            self._to_announce = not await self._commit()
        # Not between two assignments: what is owned then is for the group to say.
        if self._work is None and self._joined and (missing := self._owned - self._ledger.partitions):
            self._taking_in = missing
            self._begin(self._take_in(missing))
        limit, timeout_ms = self._room()
        if self._to_announce:
            limit, timeout_ms = 0, round(_FOLLOW_S * 1000)
        if timeout_ms == 0 and self._work is None and self._owned:
            # Every partition is at its window: only a finished record can change that.
            self._progress.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._progress.wait(), _FOLLOW_S)
            limit, timeout_ms = self._room()
        try:
            polled = await self._consumer.poll(limit, timeout_ms)
        except Retry as failure:
            await self._outwait(failure, stopping)
        else:
            self._polled_at = _now()
            if batch := self._take(polled):
                self._begin(self._delivery.process(batch))
        if self._commit_under_way is None:
            if _now() >= self._commit_at:
                # In a task, so that records do not wait for the coordinator.
                self._commit_under_way = asyncio.create_task(self._commit_now(), name=f"{self._name}-commit")
        elif self._commit_under_way.done():
            await self._end_commit()

    def _room(self) -> tuple[int, int]:
        """How many records to read now and how long to wait for them; tells the consumer which partitions."""
        if self._work is not None:
            return 0, 0
        readable, limit = self._ledger.room()
        paused = self._owned - readable
        if paused != self._paused:
            self._consumer.pause(paused - self._paused)
            self._consumer.resume(self._paused - paused)
            self._paused = paused
        if not self._owned:
            return 0, _POLL_MS
        if not readable:
            return 0, 0
        to_commit_ms = round((self._commit_at - _now()) * 1000)
        return limit, max(1, min(_NARROW_POLL_MS if paused else _POLL_MS, to_commit_ms))

    def _take(self, polled: Mapping[TopicPartition, Sequence[Record]]) -> list[Record]:
        batch: list[Record] = []
        for tp, records in polled.items():
            taken = self._ledger.take(tp, records)
            self._metrics.inc("engine_records_total", len(taken), stage=self._name, topic=tp.topic)
            batch += taken
        if batch:
            self._metrics.observe("engine_batch_records", len(batch), stage=self._name)
        return batch

    def _begin(self, work: Any) -> None:
        """The stage works in a task of its own, one at a time: meanwhile the group is followed and commits go on."""
        self._work = asyncio.create_task(work, name=f"{self._name}-work")

    def _end_work(self) -> None:
        work, self._work = self._work, None
        if work is not None and (failure := work.exception()) is not None:
            if isinstance(failure, Fatal):
                raise failure
            raise Fatal(f"stage {self._name}: {failure!r}") from failure

    async def _outwait(self, failure: Retry, stopping: asyncio.Event) -> None:
        if _now() - self._polled_at > _STALL_S:
            raise Fatal(f"stage {self._name} has not been able to read for {_STALL_S:g} s: {failure}") from failure
        _log.warning("log_not_available", stage=self._name, reason=str(failure), after_s=failure.after)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), failure.after)

    # --- ownership: called by the consumer inside poll -----------------------------------------------

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """A rebalance begins. What comes back stays as it is, so the stage hears nothing yet."""
        self._epoch += 1
        self._joined = False
        await self._commit()

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """A rebalance ended: let go of what is gone; what is new is taken in by the loop."""
        self._epoch += 1
        kept = self._ledger.partitions & self._consumer.kept()
        if self._taking_in - self._consumer.kept():
            # Before the lease counts again: for what is another's now the stage must not write.
            async with self._delivery.held(0.0):
                self._taking_in &= self._consumer.kept()
        self._owned = partitions
        self._paused = partitions - kept
        self._consumer.pause(self._paused)
        await self._let_go(self._ledger.partitions - kept)
        for tp, offset in self._ledger.next_offsets().items():
            self._consumer.seek(tp, offset)
        self._joined = True
        self._metrics.set("engine_assigned_partitions", len(partitions), stage=self._name)

    async def _let_go(self, lost: frozenset[TopicPartition]) -> None:
        if not lost:
            return
        self._ledger.drop(lost)
        self._metrics.inc("engine_rebalances_total", stage=self._name, event="revoked")
        async with self._delivery.held(_CUT_S):
            try:
                await self._stage.revoked(lost)
            except Exception as failure:
                raise Fatal(f"stage {self._name} could not let go of its partitions: {failure!r}") from failure

    async def _take_in(self, new: frozenset[TopicPartition]) -> None:
        epoch = self._epoch
        restored: Mapping[TopicPartition, Restored] = {}

        async def take() -> None:
            nonlocal restored
            restored = await self._restored(new)
            await self._stage.assigned(restored)

        async with self._delivery.held(None):
            taken = await self._delivery.until_taken(take, lambda: epoch == self._epoch and new == self._taking_in)
        stayed, self._taking_in = self._taking_in, frozenset()
        if taken:
            self._ledger.add({tp: restored[tp] for tp in stayed})
            self._to_announce = True
            for tp in stayed:
                self._consumer.seek(tp, restored[tp].offset)
            self._metrics.inc("engine_rebalances_total", stage=self._name, event="assigned")
            # What went again while the stage took it in.
            await self._let_go(new - stayed)

    async def _restored(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Restored]:
        positions = await self._consumer.committed(partitions)
        bounds = await self._consumer.bounds(partitions)
        restored = {}
        for tp in sorted(partitions):
            start, end, written = bounds[tp]
            position = positions.get(tp)
            if position is not None and position.offset > written:
                _log.warning("committed_past_the_end", stage=self._name, topic=tp.topic, partition=tp.partition)
                position = None  # the topic was made anew: its records are not those we knew
            if position is None:
                restored[tp] = Restored(start, end)
                continue
            finished, note = decode_metadata(position.offset, position.metadata)
            # What retention has deleted cannot be read again.
            offset = max(position.offset, start)
            restored[tp] = Restored(offset, end, frozenset(each for each in finished if each >= offset), note)
        return restored

    # --- progress ---------------------------------------------------------------------------------

    def _done(self, record: Record) -> None:
        if self._ledger.done(record):
            self._progress.set()

    def _on_pause(self) -> None:
        self._metrics.inc("engine_window_full_total", stage=self._name)

    async def _commit(self) -> bool:
        """Commit what is done by now; False if that is to be tried again."""
        if self._commit_under_way is not None:
            await asyncio.wait([self._commit_under_way])
            await self._end_commit()
        self._commit_under_way = asyncio.create_task(self._commit_now(), name=f"{self._name}-commit")
        await asyncio.wait([self._commit_under_way])
        return await self._end_commit()

    async def _end_commit(self) -> bool:
        """Answer what became of a commit; False for one that failed and is repeated by the next."""
        ended, self._commit_under_way = self._commit_under_way, None
        if ended is None:
            return True
        try:
            ended.result()
        except Retry as failure:
            self._metrics.inc("engine_commits_total", stage=self._name, outcome="retry")
            _log.warning("offsets_not_committed", stage=self._name, reason=str(failure))
            return False
        except OwnershipLost as failure:
            self._metrics.inc("engine_commits_total", stage=self._name, outcome="lost")
            if self._asked_in != self._epoch:
                # A rebalance overtook it and says what is owned: nobody would assign again what is let go of now.
                _log.warning("offsets_not_committed", stage=self._name, reason=str(failure))
                return False
            _log.warning("partitions_lost", stage=self._name, reason=str(failure))
            self._epoch += 1
            self._owned = self._taking_in = frozenset()
            self._joined = False
            await self._let_go(self._ledger.partitions)
        return True

    async def _commit_now(self) -> None:
        self._commit_at = _now() + self._commit_interval_s
        self._measure()
        positions = self._ledger.positions(self._stage.note)
        if not positions:
            return
        self._asked_in, started = self._epoch, self._clock.monotonic()
        await self._consumer.commit(positions)
        self._ledger.committed(positions)
        self._metrics.observe("engine_commit_seconds", self._clock.monotonic() - started, stage=self._name)
        self._metrics.inc("engine_commits_total", stage=self._name, outcome="ok")

    def _measure(self) -> None:
        self._metrics.set("engine_unfinished_records", self._ledger.unfinished, stage=self._name)
        lags: dict[str, int] = {}
        for tp, base in self._ledger.bases().items():
            end = self._consumer.end_seen(tp)
            lags[tp.topic] = lags.get(tp.topic, 0) + max(0, (base if end is None else end) - base)
        for topic, lag in lags.items():
            self._metrics.set("engine_lag_records", lag, stage=self._name, topic=topic)

    # --- the end ------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        until = _now() + self._drain_timeout_s
        await self._follow(self._delivery.close(self._drain_timeout_s / 2), until)
        if self._work is not None:
            await asyncio.wait([self._work], timeout=_CUT_S)
            if self._work.done():
                self._end_work()
        await self._follow(self._stage.drain(), until)

    async def _follow(self, ending: Any, until: float) -> None:
        """Follow the group and commit until this is over or its time is."""
        task: asyncio.Task[None] = asyncio.create_task(ending, name=f"{self._name}-drain")
        try:
            while not task.done() and _now() < until:
                await asyncio.wait([task], timeout=_FOLLOW_S)
                with contextlib.suppress(Retry):
                    await self._consumer.poll(0, 0)
                if _now() >= self._commit_at:
                    await self._commit()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        left = self._ledger.unfinished
        if task.cancelled():
            _log.warning("not_drained_in_time", stage=self._name, unfinished=left)
        elif (failure := task.exception()) is not None:
            if not isinstance(failure, Retry):
                raise Fatal(f"stage {self._name} failed while it drained: {failure!r}") from failure
            _log.warning("not_drained", stage=self._name, unfinished=left, reason=str(failure))

    async def _last_commit(self) -> None:
        if self._commit_under_way is not None:
            await asyncio.wait([self._commit_under_way], timeout=_LAST_COMMIT_S)
        try:
            async for attempt in stamina.retry_context(on=Retry, attempts=10, timeout=_LAST_COMMIT_S, wait_max=1.0):
                with attempt:
                    await self._commit_now()
        except (Retry, OwnershipLost, Fatal) as failure:
            _log.warning("last_commit_failed", stage=self._name, reason=str(failure))


def _now() -> float:
    """The event loop's time paces the engine; the clock only measures."""
    return asyncio.get_running_loop().time()
