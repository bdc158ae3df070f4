"""Settle: every terminal result is booked once: hold released, cost added, answer kept.

The lowest-offset result of a request wins because partitions are read in order and the store books
a request once. Requests that joined the settled one get its answer as their own result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fairlane.agents.effects import Effect, effects_since, first_timestamp, source_of, source_prefix
from fairlane.agents.gate_outcomes import Answering, replay_of, without_response
from fairlane.agents.outgoing import PublicRecords
from fairlane.agents.settlement import settlement_of
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import Clock
from fairlane.errors import Poison, Retry
from fairlane.ports import (
    AdmissionStore,
    Answered,
    Done,
    LogReader,
    Publisher,
    Record,
    Restored,
    Settled,
    TopicPartition,
)
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.headers import IDENTITY
from fairlane.schemas.result import Result
from fairlane.schemas.topics import request_key
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

LEASE_WAIT_S = 0.2


@dataclass(slots=True)
class _Begun:
    """Answers to those who joined one result: since when they are written, and what is on its way."""

    since_ms: int
    acks: list[asyncio.Future[Record]] = field(default_factory=list)


class Settle:
    """A :class:`~fairlane.ports.Stage` over ``results``."""

    def __init__(
        self,
        *,
        names: TopicNames,
        publisher: Publisher,
        reader: LogReader,
        store: AdmissionStore,
        config_version: Callable[[], str],
        clock: Clock,
        metrics: Metrics,
        idempotency_ttl_s: int,
        lease_ok: Callable[[], bool],
    ) -> None:
        self._publisher = publisher
        self._reader = reader
        self._store = store
        self._config_version = config_version
        self._clock = clock
        self._metrics = metrics
        self._ttl_s = idempotency_ttl_s
        self._lease_ok = lease_ok
        self._names = names
        self._public = PublicRecords(names, "settle")
        self._written: set[Effect] = set()
        self._begun: dict[bytes, _Begun] = {}

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        """Find which joined requests a predecessor answered already."""
        since = await first_timestamp(self._reader, partitions)
        if since is not None:
            prefixes = tuple(source_prefix(partition) for partition in partitions)
            self._written |= await effects_since(self._reader, [self._names.results], since, prefixes)

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        """Book a batch in one round trip, then answer those who joined."""
        results: list[tuple[Record, Result]] = []
        for record in batch:
            try:
                result = decode(Result, record.value or b"")
                if record.key != request_key(result.tenant_id, result.request_id):
                    # By its key a record competes for a request; under another's it would be booked for a loser.
                    raise Poison("the record's key is not tenant_id/request_id of its value")
                results.append((record, result))
            except (DecodeError, Poison) as failure:
                # Not written by Fairlane: there is no request to book it on.
                self._metrics.inc("settle_results_total", first="invalid")
                _log.warning("settle_skipped", partition=record.partition, offset=record.offset, error=str(failure))
                done(record)
        settled = await self._store.settle(
            [settlement_of(record, result, self._names, self._ttl_s) for record, result in results]
        )
        answered: list[Answered] = []
        for (record, result), outcome in zip(results, settled, strict=True):
            self._metrics.inc("settle_results_total", first=str(outcome.first).lower())
            if outcome.followers:
                await self._answer_followers(record, result, outcome)
                followers = tuple(follower for follower, _ in outcome.followers)
                answered.append(Answered(result.tenant_id, outcome.idempotency_key, followers))
        await self._store.followers_answered(answered)
        for record, _ in results:
            self._begun.pop(source_of(record), None)
            done(record)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        """Booking failed for a reason retries do not mend: say so loudly, go on with the next."""
        _log.error("settle_poison", partition=record.partition, offset=record.offset, error=f"{type(failure).__name__}")

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Forget what was inherited with the partitions."""
        prefixes = tuple(source_prefix(partition) for partition in partitions)
        if prefixes:
            self._written = {effect for effect in self._written if not effect.source.startswith(prefixes)}
            self._begun = {source: it for source, it in self._begun.items() if not source.startswith(prefixes)}

    async def drain(self) -> None:
        """Nothing outlives a batch."""

    def note(self, partition: TopicPartition) -> str:
        """Nothing beside the offsets."""
        return ""

    async def _answer_followers(self, record: Record, result: Result, settled: Settled) -> None:
        """Write what is missing. A record may come again while its answers are on their way, or after the
        store failed behind them, so the log is asked before anything is written a second time.
        """
        source, version, now_ms = source_of(record), self._config_version(), self._clock.now_ms()
        begun = self._begun.get(source)
        if begun is None:
            # By the brokers' clock: the answers come after the result, whatever the clock here says.
            begun = self._begun[source] = _Begun(record.timestamp_ms)
        else:
            if begun.acks:
                await asyncio.wait(begun.acks)
            self._written |= await effects_since(self._reader, [self._names.results], begun.since_ms, (source,))
        asking = [
            Answering.decode(envelope)
            for follower, envelope in settled.followers
            if Effect(self._names.results, source, request_key(result.tenant_id, follower)) not in self._written
        ]
        replays = [(replay_of(result, each, version, now_ms), each.identity) for each in asking]
        refused = await self._write(begun, source, replays)
        await self._write(begun, source, [(without_response(replay), identity) for replay, identity in refused])

    async def _write(
        self, begun: _Begun, source: bytes, replays: Sequence[tuple[Result, str]]
    ) -> list[tuple[Result, str]]:
        """Those that are larger than a record can be. Raises Retry if one was not acknowledged."""
        if not self._lease_ok():
            # Whoever owns the partition by now answers them.
            raise Retry("the lease on the partitions is not certain", after=LEASE_WAIT_S)
        acks = [
            self._publisher.send(self._public.result(replay, source, extra=((IDENTITY, identity.encode()),)))
            for replay, identity in replays
        ]
        begun.acks = acks
        if acks:
            # Not gather: cut short, it would cancel the acknowledgements.
            await asyncio.wait(acks)
        failures = [ack.exception() for ack in acks]
        for failure in failures:
            if failure is not None and not isinstance(failure, Poison):
                raise failure
        return [replay for replay, failure in zip(replays, failures, strict=True) if failure is not None]
