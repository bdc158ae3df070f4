"""The Faust engine: runs one stage on faust-streaming, with our batches, our commits and our answers.

Faust runs the group membership, the consumer's thread, the flow from poll to agent and the stop around
a rebalance. What it does not do here, because it loses records (see ``docs/adr``): decide what is
committed, and acknowledge events whose agent raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairlane.clock import Clock
from fairlane.errors import Fatal, Retry
from fairlane.policy.offsets import decode_metadata
from fairlane.ports import LogReader, OwnershipLost, Position, Record, Restored, Stage, TopicPartition
from fairlane.streams.engines.delivery import Delivery
from fairlane.streams.engines.ledger import Ledger
from fairlane.telemetry import Metrics, get_logger

if TYPE_CHECKING:
    from fairlane.streams.engines.faust_app import EngineApp
    from fairlane.streams.engines.faust_consumer import Polled

_LAST_COMMIT_S = 5.0
"""How long the commit before leaving may take, whatever is left of the drain time."""
_LEAVE_S = 5.0
"""How long Faust may take to close."""

_STALL_S = 10.0
"""Faust has known ways to stop silently (issues 175 and 532): without a sign of life for so long, we end."""

_log = get_logger(__name__)


class FaustEngine:
    """Feeds one stage from its topics by Faust and commits what it has done; see :class:`fairlane.ports.Engine`.

    ``topics`` are full names. ``instance`` is the stable name of the process in its group (static
    membership), or empty. ``reader`` reads positions and ends when partitions are assigned.
    ``window_records`` bounds the unfinished records of a partition. ``data_dir`` is the only place Faust
    may write to. One engine runs once.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        stage_name: str,
        bootstrap: str,
        group: str,
        topics: Sequence[str],
        instance: str | None,
        reader: LogReader,
        clock: Clock,
        metrics: Metrics,
        batch_max_records: int,
        window_records: int,
        commit_interval_ms: int,
        session_timeout_ms: int,
        drain_timeout_ms: int,
        data_dir: Path,
        broker_gathers: bool = False,
        committed_only: bool = False,
    ) -> None:
        """``broker_gathers``: nobody waits for what the stage does, so records may come some 50 ms later, together.
        ``committed_only``: what an aborted transaction wrote is left out.
        """
        self.committed_only = committed_only
        self._stage = stage
        self._stage_name = stage_name
        self._bootstrap = bootstrap
        self._group = group
        self._topics = tuple(topics)
        self._instance = instance
        self._reader = reader
        self._clock = clock
        self._metrics = metrics
        self._commit_interval_ms = commit_interval_ms
        self._session_timeout_ms = session_timeout_ms
        self._drain_timeout_s = drain_timeout_ms / 1000
        self._data_dir = data_dir
        self._broker_gathers = broker_gathers
        self._ledger = Ledger(window=window_records, batch=batch_max_records, on_pause=self._on_pause)
        self._delivery = Delivery(
            stage,
            stage_name=stage_name,
            clock=clock,
            metrics=metrics,
            done=self._done,
            is_unfinished=self._ledger.is_unfinished,
        )
        self._app: EngineApp | None = None
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._progress = asyncio.Event()
        self._commit_turn = asyncio.Lock()
        self._epoch = 0
        self._taken_in = -1
        self._membership = ("", 0)
        self._event_under_way = False
        self._event_waits_s = 0.0
        self._rounds = 0
        self._round_waits_s = 0.0
        self._busy = False
        self._reading = False
        self._flowing = False
        self._committing = True
        self._ready = False

    @property
    def broker_gathers(self) -> bool:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`."""
        return self._broker_gathers

    @property
    def ready(self) -> bool:
        """Whether the engine has joined and its stage has taken its partitions."""
        return self._ready

    def lease_ok(self) -> bool:
        """Whether no other member can own this one's partitions; False during a rebalance."""
        return self._app is not None and self._flowing and self._app.consumer.lease_ok()

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until ``stopping`` is set, then drain, commit and leave. Raises Fatal.

        When cancelled it leaves without draining and commits nothing more, as after a crash.
        """
        # Faust costs half a second to import, and only a process that runs a stage on it needs it.
        from fairlane.streams.engines.faust_app import build_app

        self._data_dir.parent.mkdir(parents=True, exist_ok=True)
        app = self._app = build_app(
            feed=self,
            on_crash=self._fail,
            on_assigned=self._assigned,
            process=self._process,
            stage_name=self._stage_name,
            bootstrap=self._bootstrap,
            group=self._group,
            topics=self._topics,
            instance=self._instance,
            commit_interval_ms=self._commit_interval_ms,
            session_timeout_ms=self._session_timeout_ms,
            data_dir=self._data_dir,
        )
        self._reading = True
        starting = asyncio.create_task(app.start(), name=f"{self._stage_name}-faust")
        starting.add_done_callback(self._started)
        waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(self._failed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._failure is None:
                await self._drain()
            else:
                self._reading = False
                await self._delivery.close(0.0)
            await self._last_commit()
        finally:
            self._committing = False
            self._flowing = self._ready = False
            for wait in waits:
                wait.cancel()
            await self._leave(app, starting)
        if self._failure is not None:
            if isinstance(self._failure, Fatal):
                raise self._failure
            raise Fatal(
                f"stage {self._stage_name} cannot read from Kafka at {self._bootstrap}: {self._failure!r}"
            ) from self._failure

    # --- what the consumer asks: Feed ---------------------------------------------------------------

    async def room(self, timeout_s: float) -> tuple[frozenset[TopicPartition], int]:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`.

        The next poll waits until the stage has taken the last one: meanwhile records gather in the
        driver, and so batches grow with the load by themselves.
        """
        room = self._room()
        if not room[0]:
            self._progress.clear()
            try:
                await asyncio.wait_for(self._progress.wait(), timeout_s)
            except TimeoutError:
                # Waits that really passed are counted: a process that was stopped must not judge by the clock.
                self._event_waits_s += timeout_s if self._event_under_way and self._flowing else 0.0
                if self._event_waits_s > _STALL_S:
                    self._fail(Fatal(f"stage {self._stage_name}: Faust lost an event on its way to the stage"))
            room = self._room()
        return room

    def polled(self) -> None:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`."""
        self._event_under_way = True
        self._event_waits_s = 0.0

    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`."""
        return self._ledger.next_offsets()

    async def commit(self) -> None:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`. A failure is logged; the next one repeats it."""
        app = self._app
        if app is None or not self._committing:
            return
        async with self._commit_turn:
            self._measure(app)
            self._watch(app)
            positions = self._ledger.positions(self._stage.note)
            if not positions:
                return
            outcome = "ok"
            started = self._clock.monotonic()
            try:
                committed = await app.consumer.commit_positions(positions)
            except Retry as failure:
                outcome = "retry"
                _log.warning("offsets not committed, the next commit tries again", reason=str(failure))
            except OwnershipLost as failure:
                outcome = "lost"
                _log.warning("offsets not committed, the group moved on", reason=str(failure))
            else:
                self._ledger.committed(committed)
                self._metrics.observe(
                    "engine_commit_seconds", self._clock.monotonic() - started, stage=self._stage_name
                )
            self._metrics.inc("engine_commits_total", stage=self._stage_name, outcome=outcome)

    async def suspended(self) -> None:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`."""
        self._epoch += 1
        self._flowing = self._ready = False
        await self.commit()

    def flowing(self) -> None:
        """See :class:`~fairlane.streams.engines.faust_consumer.Feed`."""
        # Faust also ends a rebalance that another one has overtaken: nothing was taken for that.
        if self._taken_in == self._epoch:
            # An event of before was cleared from Faust's queue; its records are read again.
            self._event_under_way = False
            self._flowing = self._ready = True
            self._progress.set()

    # --- what Faust calls ---------------------------------------------------------------------------

    async def _assigned(self) -> None:
        app = self._app
        if app is None or not self._reading:
            return
        epoch = self._epoch
        member, generation = app.consumer.membership()
        owned = frozenset(TopicPartition(tp.topic, tp.partition) for tp in app.consumer.assignment())
        # A member that was put out, or missed a generation, cannot know who owned its partitions meanwhile.
        stayed = member == self._membership[0] and generation - self._membership[1] <= 1
        kept = self._ledger.partitions & owned if stayed else frozenset()
        try:
            await self._change(self._ledger.partitions - kept, owned - kept, epoch)
        except Fatal as failure:
            self._fail(failure)
            return
        self._membership = (member, generation)
        if self._ledger.partitions == owned:
            self._taken_in = epoch
            self._metrics.set("engine_assigned_partitions", len(owned), stage=self._stage_name)

    async def _change(self, lost: frozenset[TopicPartition], new: frozenset[TopicPartition], epoch: int) -> None:
        async with self._delivery.held(self._session_timeout_ms / 2000 if lost else None):
            if lost:
                self._ledger.drop(lost)
                self._metrics.inc("engine_rebalances_total", stage=self._stage_name, event="revoked")
                await self._delivery.until_taken(lambda: self._stage.revoked(lost), lambda: True)
            if not new:
                return
            restored: Mapping[TopicPartition, Restored] = {}

            async def take() -> None:
                nonlocal restored
                restored = await self._restored(new)
                await self._stage.assigned(restored)

            if await self._delivery.until_taken(take, lambda: epoch == self._epoch):
                self._ledger.add(restored)
                self._metrics.inc("engine_rebalances_total", stage=self._stage_name, event="assigned")

    async def _restored(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, Restored]:
        restored = {}
        for topic in sorted({tp.topic for tp in partitions}):
            positions = await self._reader.group_positions(self._group, topic)
            starts = await self._reader.starts(topic)
            ends = await self._reader.ends(topic)
            for tp in sorted(tp for tp in partitions if tp.topic == topic):
                position = positions.get(tp.partition, Position(starts[tp.partition]))
                if position.offset > ends[tp.partition]:
                    _log.warning("committed_past_the_end", stage=self._stage_name, topic=topic, partition=tp.partition)
                    position = Position(starts[tp.partition])  # the topic was made anew: its records are others
                finished, note = decode_metadata(position.offset, position.metadata)
                # What retention has deleted cannot be read again.
                offset = max(position.offset, starts[tp.partition])
                kept = frozenset(each for each in finished if each >= offset)
                restored[tp] = Restored(offset, ends[tp.partition], kept, note)
        return restored

    async def _process(self, polled: Polled) -> None:
        self._event_under_way = False
        app = self._app
        if app is None or polled.epoch != app.consumer.epoch or not self._reading or self._failure is not None:
            return
        batch: list[Record] = []
        for tp, records in polled.records.items():
            taken = self._ledger.take(tp, records)
            self._metrics.inc("engine_records_total", len(taken), stage=self._stage_name, topic=tp.topic)
            batch += taken
        self._metrics.observe("engine_batch_records", len(batch), stage=self._stage_name)
        self._busy = True
        try:
            await self._delivery.process(batch)
        except Exception as failure:  # noqa: BLE001 - Faust would restart its agent without these records
            self._fail(failure)
        finally:
            self._busy = False
            self._progress.set()

    def _started(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and (failure := starting.exception()) is not None:
            self._fail(failure)

    # --- our side -----------------------------------------------------------------------------------

    def _done(self, record: Record) -> None:
        if self._ledger.done(record):
            self._progress.set()

    def _room(self) -> tuple[frozenset[TopicPartition], int]:
        if self._flowing and self._reading and not (self._event_under_way or self._busy):
            return self._ledger.room()
        return frozenset(), 0

    def _watch(self, app: EngineApp) -> None:
        polls_on = app.consumer.rounds != self._rounds or not self._flowing
        self._rounds = app.consumer.rounds
        self._round_waits_s = 0.0 if polls_on else self._round_waits_s + self._commit_interval_ms / 1000
        if self._round_waits_s > _STALL_S:
            self._fail(Fatal(f"stage {self._stage_name}: Faust stopped polling"))

    def _measure(self, app: EngineApp) -> None:
        self._metrics.set("engine_unfinished_records", self._ledger.unfinished, stage=self._stage_name)
        lags = dict.fromkeys(self._topics, 0)
        for tp, base in self._ledger.bases().items():
            lags[tp.topic] += max(0, app.consumer.ends.get(tp, base) - base)
        for topic, lag in lags.items():
            self._metrics.set("engine_lag_records", lag, stage=self._stage_name, topic=topic)

    def _on_pause(self) -> None:
        self._metrics.inc("engine_window_full_total", stage=self._stage_name)

    def _fail(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        self._failed.set()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_timeout_s
        self._reading = False
        await self._delivery.close(self._drain_timeout_s / 2)
        try:
            async with asyncio.timeout_at(until):
                await self._stage.drain()
        except TimeoutError:
            _log.warning("the stage did not drain in time; what is unfinished is delivered again",
                         stage=self._stage_name, unfinished=self._ledger.unfinished)  # fmt: skip
        except Retry as failure:
            _log.warning("the stage could not drain; what is unfinished is delivered again",
                         stage=self._stage_name, unfinished=self._ledger.unfinished, reason=str(failure))  # fmt: skip
        except Exception as failure:  # noqa: BLE001 - raised by run() once the rest of the stop is done
            self._fail(failure)

    async def _last_commit(self) -> None:
        try:
            async with asyncio.timeout(_LAST_COMMIT_S):
                await self.commit()
        except TimeoutError:
            _log.warning("the last commit did not end in time", stage=self._stage_name)

    async def _leave(self, app: EngineApp, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait([starting])
        # Not by a timeout that cancels: Faust swallows a cancellation and goes on waiting.
        done, _ = await asyncio.wait([asyncio.create_task(app.stop())], timeout=_LEAVE_S)
        if not done:
            _log.warning("Faust did not close in time", stage=self._stage_name)
