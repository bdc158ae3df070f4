"""Fills an emptied admission store again with what the log says.

- A result on ``results``: what was spent, and the answer that is kept for its idempotency key.
- Beyond the workers' commits on ``inbox``, and beyond the dispatchers' on ``lanes``: what is in flight
  and what waits, with their holds. Below a commit every record has its effect in the log.
- A ``joined`` decision without a result: who waits for another's answer.

Positions are read before the ends of the topics that their effects went to, and ends before anything is
told, so whatever moves on meanwhile is told at a place where it had been. The store only moves
requests forward, and what the stages still have to tell it they tell once it is live.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from fairlane.agents.effects import CLOCK_MARGIN_MS
from fairlane.agents.inbox_epochs import EpochFence, decode_note, dispatch_of
from fairlane.agents.settlement import settlement_of
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import Clock
from fairlane.errors import Retry
from fairlane.policy.offsets import decode_metadata
from fairlane.ports import Joined, LogReader, Position, Record, RestorableStore, Restoration, StoreEmptied, Waiting
from fairlane.schemas.base import timestamp_to_ms
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.headers import JOINED, header, identity_of
from fairlane.schemas.job import Job
from fairlane.schemas.joined import Asking, Joining
from fairlane.schemas.result import Result
from fairlane.schemas.topics import request_key
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

DRAIN_S = 1.0
"""Waited before the log is read: what was admitted just before the store forgot it has reached its lane by then."""
CLAIM_MS = 10_000
"""A process that dies while it fills the store is replaced after this."""
EXPIRED_TTL_S = 60
"""A result older than identities are kept counts with its cost only, but not twice."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The consumer groups whose commits say what is finished."""

    dispatcher: str
    worker: str
    settle: str


@dataclass(slots=True)
class Rebuilt:
    """How many records of each kind the store was told; ``since_ms`` is when the oldest unsettled request came."""

    results: int = 0
    in_flight: int = 0
    waiting: int = 0
    joined: int = 0
    since_ms: int | None = None

    def came(self, received_ms: int) -> None:
        """A request that came then is not settled."""
        self.since_ms = received_ms if self.since_ms is None else min(self.since_ms, received_ms)


class StoreRebuild:
    """Reads the log and tells the store. One at a time does; the others are told so."""

    def __init__(
        self,
        *,
        names: TopicNames,
        reader: LogReader,
        store: RestorableStore,
        pools: Callable[[], Iterable[str]],
        groups: Groups,
        clock: Clock,
        metrics: Metrics,
        idempotency_ttl_s: int,
    ) -> None:
        self._names = names
        self._reader = reader
        self._store = store
        self._pools = pools
        self._groups = groups
        self._clock = clock
        self._metrics = metrics
        self._ttl_s = idempotency_ttl_s
        self._token = uuid.uuid4().hex

    async def run(self) -> bool:
        """Make the store live; False if another process does, or did. Raises Retry while log or store are away."""
        if not await self._store.claim(self._token, CLAIM_MS):
            return False
        began = self._clock.monotonic()
        _log.warning("store_emptied", reason="it is filled again from the log; nothing is admitted until then")
        try:
            await asyncio.sleep(DRAIN_S)
            rebuilt = await self._fill()
            if not await self._store.complete(self._token):
                return False
        except StoreEmptied:
            return False
        self._metrics.inc("store_rebuilds_total")
        _log.warning(
            "store_rebuilt",
            results=rebuilt.results,
            in_flight=rebuilt.in_flight,
            waiting=rebuilt.waiting,
            joined=rebuilt.joined,
            duration_ms=round((self._clock.monotonic() - began) * 1000),
        )
        return True

    async def _fill(self) -> Rebuilt:
        names, reader, groups, rebuilt = self._names, self._reader, self._groups, Rebuilt()
        pools = [pool for pool in sorted(set(self._pools())) if await self._exists(names.lanes(pool))]
        lanes = {pool: await reader.group_positions(groups.dispatcher, names.lanes(pool)) for pool in pools}
        inbox = {pool: await reader.group_positions(groups.worker, names.inbox(pool)) for pool in pools}
        settled = await reader.group_positions(groups.settle, names.results)
        ends = {topic: await reader.ends(topic) for pool in pools for topic in (names.lanes(pool), names.inbox(pool))}
        # Last, so that the results of all that is finished below those positions are among them.
        ends |= {topic: await reader.ends(topic) for topic in (names.decisions, names.results)}
        await self._results(ends[names.results], settled, rebuilt)
        for pool in pools:
            await self._waiting(names.inbox(pool), inbox[pool], ends[names.inbox(pool)], rebuilt, dispatched=True)
        for pool in pools:
            await self._waiting(names.lanes(pool), lanes[pool], ends[names.lanes(pool)], rebuilt, dispatched=False)
        await self._joined(ends[names.decisions], rebuilt)
        return rebuilt

    async def _exists(self, topic: str) -> bool:
        """False where the log answers and has no such topic; raises Retry where it does not answer."""
        try:
            await self._reader.ends(topic)
            return True
        except Retry:
            await self._reader.ends(self._names.results)
        try:
            # Once more: the log may have come back between the two questions.
            await self._reader.ends(topic)
        except Retry:
            return False
        return True

    async def _tell(self, restorations: list[Restoration]) -> None:
        if not await self._store.claim(self._token, CLAIM_MS):
            raise StoreEmptied("another process fills the store")
        await self._store.restore(self._token, restorations)

    async def _results(self, ends: Mapping[int, int], settled: Mapping[int, Position], rebuilt: Rebuilt) -> None:
        topic = self._names.results
        async for batch in self._reader.read(topic, await self._reader.starts(topic), ends):
            restorations: list[Restoration] = []
            for record in batch:
                result = _result_of(record)
                if result is None:
                    continue
                if record.offset >= settled.get(record.partition, Position(0)).offset:
                    rebuilt.came(timestamp_to_ms(result.timings.received_at))
                ttl_s = self._ttl_s - (self._clock.now_ms() - record.timestamp_ms) // 1000
                settlement = settlement_of(record, result, self._names, max(ttl_s, EXPIRED_TTL_S))
                restorations.append(settlement if ttl_s > 0 else replace(settlement, known_as=None))
            rebuilt.results += len(restorations)
            await self._tell(restorations)

    async def _waiting(
        self,
        topic: str,
        positions: Mapping[int, Position],
        ends: Mapping[int, int],
        rebuilt: Rebuilt,
        *,
        dispatched: bool,
    ) -> None:
        begin, fences = dict(await self._reader.starts(topic)), dict[int, EpochFence]()
        for partition, position in positions.items():
            begin[partition] = max(position.offset, begin.get(partition, 0))
            if dispatched:
                note = decode_metadata(position.offset, position.metadata)[1]
                fences[partition] = EpochFence(decode_note(note)[0])
        async for batch in self._reader.read(topic, begin, ends):
            restorations: list[Restoration] = []
            for record in batch:
                dispatch = dispatch_of(record) if dispatched else None
                if dispatch is not None and not fences.setdefault(record.partition, EpochFence()).admits(
                    record.offset, dispatch.epoch
                ):
                    continue
                if (waiting := self._waiting_of(record, dispatched)) is not None:
                    restorations.append(waiting[0])
                    rebuilt.came(waiting[1])
            if dispatched:
                rebuilt.in_flight += len(restorations)
            else:
                rebuilt.waiting += len(restorations)
            await self._tell(restorations)

    def _waiting_of(self, record: Record, dispatched: bool) -> tuple[Waiting, int] | None:
        """With the time at which the request came. None for a marker, and for what no gate wrote."""
        identity = identity_of(record.headers)
        if record.value is None or identity is None:
            return None
        try:
            job = decode(Job, record.value)
        except DecodeError:
            return None
        deadline_ms = timestamp_to_ms(job.deadline) if job.deadline is not None else 0
        waiting = Waiting(
            job.tenant_id,
            job.request_id,
            job.idempotency_key,
            *identity,
            job.hold_nano_usd,
            dispatched,
            self._ttl_s + max(0, deadline_ms - self._clock.now_ms()) // 1000 + 1,
        )
        return waiting, timestamp_to_ms(job.received_at)

    async def _joined(self, ends: Mapping[int, int], rebuilt: Rebuilt) -> None:
        """Whoever joined a request that is not settled did so after that one came."""
        if rebuilt.since_ms is None:
            return
        topic = self._names.decisions
        starts = await self._reader.offsets_at(topic, rebuilt.since_ms - CLOCK_MARGIN_MS)
        async for batch in self._reader.read(topic, starts, ends):
            restorations = [joined for record in batch if (joined := self._joined_of(record)) is not None]
            rebuilt.joined += len(restorations)
            await self._tell(list(restorations))

    def _joined_of(self, record: Record) -> Joined | None:
        raw, identity = header(record.headers, JOINED), identity_of(record.headers)
        if raw is None or identity is None:
            return None
        try:
            joining = decode(Joining, raw)
            asking = decode(Asking, joining.answering.encode())
        except DecodeError as failure:
            at = {"partition": record.partition, "offset": record.offset}
            _log.warning("joined_header_unreadable", **at, error=str(failure))
            return None
        return Joined(
            asking.tenant_id,
            asking.request_id,
            asking.idempotency_key or asking.request_id,
            *identity,
            joining.owner,
            joining.answering.encode(),
            self._ttl_s,
        )


def _result_of(record: Record) -> Result | None:
    """None for what settle does not book either."""
    try:
        result = decode(Result, record.value or b"")
    except DecodeError:
        return None
    return result if record.key == request_key(result.tenant_id, result.request_id) else None
