"""The dispatcher: the only place that picks. It owns all lanes of a pool or none of them.

One member of its group owns a pool's whole ``lanes`` topic; the others stand by. The owner follows
``results`` to free slots and ``commands`` to cancel, and binds a record to a slot group only when a
slot is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

from fairlane.agents.command_intake import KEPT_MS, CommandIntake
from fairlane.agents.config_view import ConfigView
from fairlane.agents.dispatch_marks import DispatchMarks
from fairlane.agents.on_its_way import OnItsWay
from fairlane.agents.pause import Pause
from fairlane.agents.pool_scheduler import PoolScheduler
from fairlane.agents.pool_takeover import Inherited, take_over
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison, Retry
from fairlane.ports import (
    AdmissionStore,
    Done,
    LogReader,
    Outgoing,
    Publisher,
    Record,
    Restored,
    TopicPartition,
)
from fairlane.schemas.base import MAX_SAFE_INTEGER
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import SLOT, header
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

TICK_S = 0.05
SNAPSHOT_S = 1.0
PARTITIONS_S = 10.0
"""How often a followed topic is asked whether it has more partitions."""
GATHER_S = 0.02
"""How long results may gather while nobody waits for the slots they free: a fetch costs far more than a result."""
IDLE_GATHER_S = 0.25
"""The same while nothing of our pools is under way: all that comes then is of other pools."""


class Dispatcher:
    """A :class:`~fairlane.ports.Stage` over the lanes of all pools."""

    def __init__(
        self,
        *,
        names: TopicNames,
        publisher: Publisher,
        reader: LogReader,
        store: AdmissionStore,
        config: Callable[[], ConfigView],
        clock: Clock,
        metrics: Metrics,
        worker_group: str,
        lease_ok: Callable[[], bool],
        fail: Callable[[BaseException], None],
        cancels_kept_ms: int = KEPT_MS,
    ) -> None:
        """``cancels_kept_ms``: how long a cancellation waits for its request; as long as its id is remembered."""
        self._names = names
        self._publisher = publisher
        self._reader = reader
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._worker_group = worker_group
        self._lease_ok = lease_ok
        self._fail = fail
        self._pools: dict[str, PoolScheduler] = {}
        self._on_its_way = OnItsWay()
        self._ended_during: dict[str, set[bytes]] = {}
        self._commands = CommandIntake(
            names=names,
            publisher=publisher,
            reader=reader,
            clock=clock,
            metrics=metrics,
            config_version=lambda: config().version,
            kept_ms=cancels_kept_ms,
        )
        self._marks = DispatchMarks(store, config)
        self._gathering = Pause()
        self._tasks: list[asyncio.Task[None]] = []

    def configured(self, view: ConfigView) -> None:
        """Take a change of pools and weights at once."""
        for scheduler in self._pools.values():
            scheduler.apply(view)
            self._pump(scheduler)

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        """Take over every pool whose lanes are among these partitions."""
        by_pool: dict[str, dict[TopicPartition, Restored]] = {}
        for partition, restored in partitions.items():
            by_pool.setdefault(self._names.pool_of(partition.topic), {})[partition] = restored
        if by_pool and not self._tasks:
            await self._start_following()
        for pool, restored_of in by_pool.items():
            await self._take(pool, restored_of)

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        """Put records into their lanes and dispatch what finds a slot."""
        touched: dict[str, PoolScheduler] = {}
        for record in batch:
            scheduler = touched.get(record.topic)
            if scheduler is None:
                scheduler = touched[record.topic] = self._pools[self._names.pool_of(record.topic)]
            scheduler.offer(record, done)
            self._commands.arrived(record.key, scheduler)
        for scheduler in touched.values():
            self._pump(scheduler)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        """A lane record that no gate wrote, or that the code fails on, gets its terminal. Raises Retry."""
        scheduler = self._pools.get(self._names.pool_of(record.topic))
        if scheduler is None:
            raise Retry("nobody here owns the pool", after=TICK_S)
        await scheduler.poisoned(record, failure)
        # What waits did not find its slot when the record failed.
        self._pump(scheduler)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Drop the pools; their next owner rebuilds them from the log."""
        for pool in {self._names.pool_of(partition.topic) for partition in partitions}:
            if (scheduler := self._pools.pop(pool, None)) is not None:
                scheduler.lose()
                _log.info("pool_lost", pool=pool)
        if not self._pools:
            await self._stop_following()

    async def drain(self) -> None:
        """Stop picking, keep the counters, wait for what is on its way."""
        await self._stop_following()
        for scheduler in self._pools.values():
            await scheduler.settled()
            await self._snapshot(scheduler)
        await self._marks.flush()
        await self._publisher.flush()

    def note(self, partition: TopicPartition) -> str:
        """Nothing beside the offsets."""
        return ""

    async def _take(self, pool: str, restored: Mapping[TopicPartition, Restored]) -> None:
        before = self._pools.get(pool)
        if before is not None:
            # The topic got more partitions. Nothing may be written under the old epoch any more.
            before.suspend()
            await before.settled()
            await before.check_inbox(self._reader)
        inherited = await self._inherit(pool, restored)
        if before is not None:
            inherited.state = before.snapshot()
        scheduler = PoolScheduler(
            pool,
            inherited,
            names=self._names,
            publisher=self._publisher,
            clock=self._clock,
            metrics=self._metrics,
            on_its_way=self._on_its_way,
            lease_ok=self._lease_ok,
            dispatched=self._marks.add,
            fail=self._fail,
        )
        scheduler.apply(self._config())
        for record, done in before.left_over(restored) if before is not None else ():
            scheduler.offer(record, done)
            self._commands.arrived(record.key, scheduler)
        self._pools[pool] = scheduler
        self._metrics.inc("dispatcher_takeovers_total", pool=pool)

    async def _inherit(self, pool: str, restored: Mapping[TopicPartition, Restored]) -> Inherited:
        # Results that arrive while the log is read are noted, so that none falls between.
        ended = self._ended_during[pool] = set()
        try:
            inherited = await take_over(
                pool,
                restored,
                names=self._names,
                reader=self._reader,
                publisher=self._publisher,
                worker_group=self._worker_group,
                now_ms=self._clock.now_ms(),
                lease_ok=self._lease_ok,
            )
            # Commands that came while nobody owned the pool, or that its last owner took for requests it still held.
            await self._commands.replay(inherited.since_ms, speaks=self._speaks(pool))
        finally:
            # From here to the scheduler nothing may be awaited.
            del self._ended_during[pool]
        for key in ended:
            inherited.in_flight.pop(key, None)
        return inherited

    def _speaks(self, *taking: str) -> bool:
        """Whether this process is the one of all dispatchers that writes what belongs to no pool."""
        return min(self._config().pools, default=None) in (None, *self._pools, *taking)

    async def _start_following(self) -> None:
        results, commands = self._names.results, self._names.commands
        starts = {topic: dict(await self._reader.ends(topic)) for topic in (results, commands)}
        for name, work in (
            ("results", self._follow(results, starts[results], self._on_result, gathers=True)),
            ("commands", self._follow(commands, starts[commands], self._on_command)),
            ("ticks", self._tick()),
            ("inboxes", self._watch_inboxes()),
            ("marks", self._marks.run()),
        ):
            task = asyncio.create_task(work, name=f"dispatcher-{name}")
            task.add_done_callback(self._task_ended)
            self._tasks.append(task)

    async def _stop_following(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task not in self._tasks:
            return
        # Also if a library let a CancelledError out that was not meant for it: without this task nothing moves.
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._fail(Fatal(f"{task.get_name()} ended: {type(failure).__name__}: {failure}"))

    def _pump(self, scheduler: PoolScheduler) -> None:
        scheduler.pump()
        if scheduler.waits:
            # A result that frees a slot may be in the log already.
            self._gathering.end()

    async def _follow(
        self,
        topic: str,
        starts: Mapping[int, int],
        take: Callable[[Record], Awaitable[None]],
        *,
        gathers: bool = False,
    ) -> None:
        position = dict(starts)
        while True:
            batches = self._reader.read(topic, position)
            counted_at = self._clock.monotonic()
            try:
                async for batch in batches:
                    for record in batch:
                        await take(record)
                        position[record.partition] = record.offset + 1
                    for scheduler in self._pools.values() if batch else ():
                        self._pump(scheduler)
                    if batch and gathers and not any(scheduler.waits for scheduler in self._pools.values()):
                        busy = any(scheduler.under_way for scheduler in self._pools.values())
                        await self._gathering.at_most(GATHER_S if busy else IDLE_GATHER_S)
                    if self._clock.monotonic() - counted_at >= PARTITIONS_S:
                        counted_at = self._clock.monotonic()
                        now = await self._reader.starts(topic)
                        if added := {partition: now[partition] for partition in now.keys() - position.keys()}:
                            position |= added
                            break
            except Retry as failure:
                _log.warning("follow_interrupted", topic=topic, error=str(failure))
                await asyncio.sleep(failure.after)
            finally:
                if isinstance(batches, AsyncGenerator):
                    await batches.aclose()

    async def _on_result(self, record: Record) -> None:
        slot = header(record.headers, SLOT)
        if slot is None or record.key is None:
            return
        try:
            pool, _, input_text, output_text = slot.decode().rsplit("/", 3)
            input_tokens, output_tokens = int(input_text), int(output_text)
            if not (0 <= input_tokens <= MAX_SAFE_INTEGER and 0 <= output_tokens <= MAX_SAFE_INTEGER):
                raise ValueError("no worker counts so many tokens")
        except ValueError:
            _log.warning("result_slot_unreadable", partition=record.partition, offset=record.offset)
            return
        if (pending := self._ended_during.get(pool)) is not None:
            pending.add(record.key)
        scheduler = self._pools.get(pool)
        if scheduler is not None:
            scheduler.ended(record.key, input_tokens, output_tokens)

    async def _on_command(self, record: Record) -> None:
        await self._commands.take(record, self._pools.values(), speaks=self._speaks())

    async def _watch_inboxes(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for scheduler in list(self._pools.values()):
                try:
                    await scheduler.check_inbox(self._reader)
                except Retry as failure:
                    _log.warning("inbox_not_checked", pool=scheduler.pool, error=str(failure))
                    await asyncio.sleep(failure.after)

    async def _tick(self) -> None:
        snapshot_at = self._clock.monotonic() + SNAPSHOT_S
        while True:
            await asyncio.sleep(TICK_S)
            for scheduler in self._pools.values():
                self._pump(scheduler)
            if self._clock.monotonic() >= snapshot_at:
                snapshot_at = self._clock.monotonic() + SNAPSHOT_S
                self._commands.forget()
                for scheduler in self._pools.values():
                    scheduler.report()
                    if scheduler.changed and self._lease_ok():
                        await self._snapshot(scheduler)

    async def _snapshot(self, scheduler: PoolScheduler) -> None:
        state = scheduler.snapshot()
        try:
            await self._publisher.send(Outgoing(self._names.scheduler_state, scheduler.pool.encode(), encode(state)))
        except (Retry, Poison) as failure:
            # The next snapshot replaces it; without any a new owner starts fair and even.
            _log.warning("snapshot_lost", pool=scheduler.pool, error=str(failure))
