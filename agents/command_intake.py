"""Commands to the dispatcher: cancel what waits, keep what may still come, tell the rest.

A command is no work of the group: nothing is committed for it. Whoever takes a pool over reads again what
may concern the requests that wait there; doing a cancellation twice changes nothing. A record that is no
command becomes a dead letter, written by the owner of the catalog's first pool, so that one of several
dispatchers speaks.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import NamedTuple

from fairlane.agents.effects import CLOCK_MARGIN_MS, effects_since, source_of, source_prefix
from fairlane.agents.lane_records import STAGE
from fairlane.agents.outgoing import PublicRecords, decision_id, letter_about
from fairlane.agents.pool_scheduler import PoolScheduler
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import Clock
from fairlane.errors import Retry
from fairlane.ports import LogReader, Outgoing, Publisher, Record, TopicPartition
from fairlane.schemas.codec import DecodeError, decode_foreign
from fairlane.schemas.command import Command
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.request_codec import readable_parts
from fairlane.schemas.topics import request_key
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

KEPT_MAX = 10_000
"""Cancellations that found nothing to cancel, kept in case their request still comes."""
KEPT_MS = 86_400_000
"""For so long; a request id that is used again after its answer is forgotten is another request."""
EARLY_MS = 60_000
"""A cancellation may come so long before its request."""


class _Kept(NamedTuple):
    """When a cancellation was sent, and whether this process was the one that it came to."""

    sent_ms: int
    fresh: bool


class CommandIntake:
    """The cancellations this process knows of. Not thread-safe."""

    def __init__(
        self,
        *,
        names: TopicNames,
        publisher: Publisher,
        reader: LogReader,
        clock: Clock,
        metrics: Metrics,
        config_version: Callable[[], str],
        kept_ms: int = KEPT_MS,
    ) -> None:
        self._names = names
        self._publisher = publisher
        self._reader = reader
        self._clock = clock
        self._metrics = metrics
        self._config_version = config_version
        self._kept_ms = kept_ms
        self._public = PublicRecords(names, STAGE)
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lettered: OrderedDict[bytes, None] = OrderedDict()

    async def take(self, record: Record, pools: Collection[PoolScheduler], *, speaks: bool) -> None:
        """Do what a record of ``commands`` says. ``speaks``: whether this process writes the dead letters."""
        command = self._decoded(record)
        if isinstance(command, DecodeError):
            if speaks:
                await self._dead_letter(record, command)
            return
        key = request_key(command.tenant_id, command.request_id)
        if any(pool.cancel(key) for pool in pools):
            self._count("cancelled")
            return
        if any(pool.at_worker(key) for pool in pools):
            outcome, reason = "too_late", "it is at a worker, and completes"
        else:
            outcome, reason = "kept", "it does not wait here: unknown, ended, of another dispatcher, or still to come"
            self._keep(key, _Kept(record.timestamp_ms, fresh=True))
        self._count(outcome)
        _log.info(
            "cancel_not_done",
            tenant_id=command.tenant_id,
            request_id=command.request_id,
            status=outcome,
            reason=reason,
        )

    def arrived(self, key: bytes | None, pool: PoolScheduler) -> None:
        """Cancel a request that was offered to this pool now, if that was asked before."""
        if key is not None and self._kept.pop(key, None) is not None and pool.cancel(key):
            self._count("cancelled")

    def forget(self) -> None:
        """Drop what was kept for its whole time: its request is unknown."""
        oldest = self._clock.now_ms() - self._kept_ms
        while self._kept and next(iter(self._kept.values())).sent_ms < oldest:
            self._drop()

    async def replay(self, since_ms: int | None, *, speaks: bool) -> None:
        """Read again what may concern requests that arrived since then (None: none waits). Raises Retry.

        What is not written yet of the dead letters is written if this process ``speaks``.
        """
        topic = self._names.commands
        now_ms = self._clock.now_ms()
        since_ms = min(now_ms, since_ms if since_ms is not None else now_ms) - EARLY_MS
        starts = await self._reader.offsets_at(topic, since_ms - CLOCK_MARGIN_MS)
        unreadable: list[tuple[Record, DecodeError]] = []
        async for batch in self._reader.read(topic, starts, await self._reader.ends(topic)):
            for record in batch:
                command = self._decoded(record)
                if isinstance(command, DecodeError):
                    unreadable.append((record, command))
                else:
                    key = request_key(command.tenant_id, command.request_id)
                    if key not in self._kept:
                        self._keep(key, _Kept(record.timestamp_ms, fresh=False))
        if not unreadable or not speaks:
            return
        prefixes = tuple({source_prefix(TopicPartition(topic, record.partition)) for record, _ in unreadable})
        written = {effect.source for effect in await effects_since(
            self._reader, [self._names.dead_letters], since_ms, prefixes
        )}  # fmt: skip
        for record, failure in unreadable:
            if source_of(record) not in written:
                await self._dead_letter(record, failure)

    def _decoded(self, record: Record) -> Command | DecodeError:
        try:
            return decode_foreign(Command, record.value or b"")
        except DecodeError as failure:
            return failure

    def _keep(self, key: bytes, kept: _Kept) -> None:
        self._kept.pop(key, None)
        self._kept[key] = kept
        while len(self._kept) > KEPT_MAX:
            self._drop()

    def _drop(self) -> None:
        key, kept = self._kept.popitem(last=False)
        # What was read again was mostly done by the last owner; only of the others it is known that nothing came.
        if kept.fresh:
            self._count("dropped")
            _log.warning("cancel_for_unknown_request", request_id=key.decode(), reason="no such request came")

    def _count(self, outcome: str) -> None:
        self._metrics.inc("dispatcher_commands_total", outcome=outcome)

    async def _dead_letter(self, record: Record, failure: DecodeError) -> None:
        source = source_of(record)
        if source in self._lettered:
            return
        self._lettered[source] = None
        while len(self._lettered) > KEPT_MAX:
            self._lettered.popitem(last=False)
        self._count("unreadable")
        tenant_id, request_id = readable_parts(record.value)
        ids, version = (tenant_id, request_id), self._config_version()
        letter = letter_about(record, STAGE, failure.detail, ids, version, self._clock.now_ms())
        kind = DecisionKind.DEAD_LETTERED
        decision = Decision(
            decision_id=decision_id(source, kind.value),
            event_time=letter.event_time,
            stage=STAGE,
            kind=kind,
            tenant_id=tenant_id,
            request_id=request_id,
            reason=Reason(code=failure.detail.code.value, message=failure.detail.message),
            config_version=version,
        )
        _log.warning("command_unreadable", partition=record.partition, offset=record.offset, error=str(failure))
        await self._write(self._public.dead_letter(letter, source))
        await self._write(self._public.decision(decision, source))

    async def _write(self, outgoing: Outgoing) -> None:
        """Until it is acknowledged: nothing else remembers it."""
        while True:
            try:
                await self._publisher.send(outgoing)
            except Retry as failure:
                _log.warning("command_dead_letter_delayed", error=str(failure))
                await asyncio.sleep(failure.after)
            else:
                return
