"""The gate: every record on ``requests`` becomes a lane record, a result, or a dead letter.

A batch costs one round trip to the admission store. A record is done when all it led to is
acknowledged. What a predecessor already wrote for a record is found in the log and not written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fairlane.agents.acknowledgements import Acknowledgement, when_acknowledged
from fairlane.agents.config_view import ConfigView
from fairlane.agents.effects import Effect, effects_since, first_timestamp, place_of, source_of, source_prefix
from fairlane.agents.gate_outcomes import Answering, GateOutcomes, queue_full
from fairlane.agents.intake import Accepted, IntakeLimits, Refused, examine
from fairlane.agents.on_its_way import OnItsWay
from fairlane.agents.stored_answers import StoredAnswers
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison, Retry
from fairlane.policy.lanes import LanePlacer
from fairlane.ports import (
    Admission,
    AdmissionOutcome,
    AdmissionRequest,
    AdmissionStore,
    Done,
    LogReader,
    Outgoing,
    Publisher,
    Record,
    Restored,
    TopicPartition,
)
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.headers import identity_header
from fairlane.schemas.request_codec import readable_parts
from fairlane.schemas.result import Result
from fairlane.telemetry import Metrics, get_logger

_log = get_logger(__name__)

LEASE_WAIT_S = 0.2
ABSENT_S = 60.0
"""A pool without topics is asked for again after this; meanwhile its requests are refused."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the gate accepts, and how long identities are remembered."""

    intake: IntakeLimits
    idempotency_ttl_s: int


class Gate:
    """A :class:`~fairlane.ports.Stage` over ``requests``."""

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
        settings: GateSettings,
        lease_ok: Callable[[], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._names = names
        self._publisher = publisher
        self._reader = reader
        self._store = store
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._settings = settings
        self._lease_ok = lease_ok
        self._fail = fail
        self._outcomes = GateOutcomes(names)
        self._answers = StoredAnswers(reader, names.results)
        self._placers: dict[str, LanePlacer] = {}
        self._absent_until: dict[str, float] = {}
        self._on_its_way = OnItsWay()
        self._writing: set[bytes] = set()
        self._effects: dict[bytes, set[Effect]] = {}
        self._inherited: dict[TopicPartition, int] = {}
        self._pending: set[Acknowledgement] = set()

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        """Find what predecessors wrote for records that are about to come again."""
        # Partitions that went and came back: what this very process has on its way is a predecessor's too.
        await self.drain()
        since = await first_timestamp(self._reader, partitions, committed_only=True)
        if since is None:
            return
        names = self._names
        topics = [names.results, names.dead_letters, names.decisions, *await self._lanes_there_are()]
        offsets = {source_prefix(partition): restored.offset for partition, restored in partitions.items()}
        for effect in await effects_since(self._reader, topics, since, tuple(offsets)):
            prefix, offset = place_of(effect.source)
            # What is finished does not come again, and would be kept for as long as the partition is.
            if offset >= offsets.get(prefix, 0):
                self._effects.setdefault(effect.source, set()).add(effect)
        for partition, restored in partitions.items():
            self._inherited[partition] = restored.end
        _log.info("gate_takeover", partitions=len(partitions), count=len(self._effects))

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        """Examine, admit in one round trip, write. Returns before the writes are acknowledged."""
        # What is on its way was given back because of another record; its acknowledgement finishes it.
        batch = [record for record in batch if source_of(record) not in self._writing]
        view, now_ms, limits = self._config(), self._clock.now_ms(), self._settings.intake
        examined = [examine(record, view, limits, now_ms) for record in batch]
        wanted = [
            (index, request)
            for index, item in enumerate(examined)
            if (request := self._admission_request(batch[index], item)) is not None
        ]
        decided = await self._store.admit([request for _, request in wanted])
        admissions = dict(zip((index for index, _ in wanted), decided, strict=True))
        # Read for all at once: one tenant's replays must not hold back the others of the batch.
        await self._answers.load(
            each.answer for each in decided if each.outcome is AdmissionOutcome.REPLAY and each.answer
        )
        for index, (record, item) in enumerate(zip(batch, examined, strict=True)):
            outgoing = await self._answer(record, item, admissions.get(index), view, now_ms)
            while self._on_its_way.full():
                await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
            self._check_lease()
            self._write(record, item, outgoing, done)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        """A record that made the code fail is rejected, so that its partition goes on."""
        _log.error("gate_poison", offset=record.offset, partition=record.partition, error=type(failure).__name__)
        detail = error(ErrorCode.INTERNAL, f"the gate failed on this record: {type(failure).__name__}")
        version, now_ms = self._config().version, self._clock.now_ms()
        tenant_id, request_id = readable_parts(record.value)
        if tenant_id is None or request_id is None:
            outgoing = self._outcomes.dead_letter(record, detail, (tenant_id, request_id), version, now_ms)
        else:
            refused = Refused(detail, "", (tenant_id, request_id))
            outgoing = self._outcomes.refused(record, refused, version, now_ms)
        self._check_lease()
        try:
            await asyncio.gather(*(self._publisher.send(item) for item in self._missing(record, outgoing)))
        except Retry as unknown:
            raise Fatal(f"a write of the gate was not acknowledged: {unknown}") from unknown

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Forget what was inherited with the partitions."""
        for partition in partitions:
            self._inherited.pop(partition, None)
            prefix = source_prefix(partition)
            for source in [source for source in self._effects if source.startswith(prefix)]:
                del self._effects[source]

    async def drain(self) -> None:
        """Wait for the acknowledgements of what was written."""
        while self._pending:
            await asyncio.wait(self._pending)

    def note(self, partition: TopicPartition) -> str:
        """Nothing beside the offsets."""
        return ""

    def _check_lease(self) -> None:
        """Directly before a write: whoever owns the partition by now answers its records."""
        if not self._lease_ok():
            raise Retry("the lease on the partitions is not certain", after=LEASE_WAIT_S)

    def _admission_request(self, record: Record, item: Accepted | Refused) -> AdmissionRequest | None:
        ttl_s = self._settings.idempotency_ttl_s
        if isinstance(item, Refused):
            if item.ids is None or not item.tenant_known:
                return None
            tenant_id, request_id = item.ids
            key, hold, cap, code = item.idempotency_key or request_id, 0, 1, item.detail.code.value
        else:
            job = item.job
            tenant_id, request_id, key = job.tenant_id, job.request_id, job.idempotency_key
            hold, cap, code = job.hold_nano_usd, item.max_undispatched, ""
            # From its last possible moment on: an identity gone before its result would keep its hold for ever.
            ttl_s += max(0, (item.ticket.deadline_ms or 0) - self._clock.now_ms()) // 1000 + 1
        return AdmissionRequest(
            tenant_id=tenant_id,
            request_id=request_id,
            idempotency_key=key,
            fingerprint=item.fingerprint,
            source=source_of(record).decode(),
            hold_nano_usd=hold,
            max_undispatched=cap,
            ttl_s=ttl_s,
            reject_code=code,
            envelope=b"" if code else _answering(record, item).encode(),
        )

    async def _answer(
        self, record: Record, item: Accepted | Refused, admission: Admission | None, view: ConfigView, now_ms: int
    ) -> list[Outgoing]:
        outcomes, version = self._outcomes, view.version
        outcome = admission.outcome if admission is not None else None
        ids = item.ids if isinstance(item, Refused) else (item.job.tenant_id, item.job.request_id)
        tenant = ids[0] if ids is not None and ids[0] in view.tenants else "unknown"
        self._metrics.inc("gate_requests_total", tenant=tenant, outcome=_label(item, outcome))
        if ids is None:
            assert isinstance(item, Refused)
            return outcomes.dead_letter(record, item.detail, item.readable, version, now_ms)
        if admission is None:
            assert isinstance(item, Refused)
            return outcomes.refused(record, item, version, now_ms)
        match outcome:
            case AdmissionOutcome.REQUEST_ID_REUSED:
                detail = error(ErrorCode.REQUEST_ID_REUSED, field="request_id")
                return outcomes.dead_letter(record, detail, ids, version, now_ms)
            case AdmissionOutcome.DUPLICATE:
                return outcomes.duplicate(record, ids, version, now_ms)
            case AdmissionOutcome.JOINED:
                owner = admission.owner_request_id or ""
                return outcomes.joined(record, owner, _answering(record, item), version, now_ms)
            case AdmissionOutcome.REPLAY:
                assert admission is not None
                stored = await self._stored(admission, _answering(record, item))
                if stored is not None:
                    return outcomes.replayed(record, stored, _answering(record, item), version, now_ms)
        return await self._admit_or_refuse(record, item, admission, view, now_ms)

    async def _admit_or_refuse(
        self, record: Record, item: Accepted | Refused, admission: Admission, view: ConfigView, now_ms: int
    ) -> list[Outgoing]:
        outcomes, version = self._outcomes, view.version
        if isinstance(item, Refused):
            return outcomes.refused(record, item, version, now_ms)
        match admission.outcome:
            case AdmissionOutcome.ADMITTED:
                partition = await self._lane(item.job.route.pool, item.job.tenant_id)
                if partition is not None:
                    return outcomes.admitted(record, item, admission, partition)
                message = "the topics of the model's pool do not exist yet"
                detail = error(ErrorCode.OVERLOADED, message, field="body.model", retry_after_ms=int(ABSENT_S * 1000))
            case AdmissionOutcome.QUEUE_FULL:
                detail = queue_full(admission, item.max_undispatched)
            case AdmissionOutcome.IDEMPOTENCY_MISMATCH:
                detail = error(ErrorCode.IDEMPOTENCY_MISMATCH, field="idempotency_key")
            case AdmissionOutcome.REPLAY:
                detail = error(ErrorCode.INTERNAL, "the stored answer is no longer kept in the log")
            case _:
                # Rejected before a restart under a configuration that has changed since.
                detail = error(ErrorCode.INTERNAL, "rejected before; send it again under a new request_id")
        return outcomes.refused(record, _refusal(item, detail), version, now_ms)

    async def _stored(self, admission: Admission, asking: Answering) -> Result | None:
        """A stored result, from the log; None if it is no longer there."""
        record = None if admission.answer is None else await self._answers.at(admission.answer)
        return None if record is None else _answer_for(record, admission, asking)

    async def _lane(self, pool: str, tenant_id: str) -> int | None:
        """The partition for the tenant's next record; None while the pool has no topics."""
        placer = self._placers.get(pool)
        if placer is None:
            if self._clock.monotonic() < self._absent_until.get(pool, 0.0):
                return None
            count = await self._partitions_of(pool)
            if count is None:
                self._absent_until[pool] = self._clock.monotonic() + ABSENT_S
                return None
            placer = self._placers[pool] = LanePlacer(count)
        return placer.place(tenant_id)

    async def _lanes_there_are(self) -> list[str]:
        """Lanes of all pools, also of removed ones: a predecessor may have written there before."""
        view = self._config()
        pools = sorted(view.pools.keys() | view.retired_pools)
        counts = await asyncio.gather(*(self._partitions_of(pool) for pool in pools))
        return [self._names.lanes(pool) for pool, count in zip(pools, counts, strict=True) if count is not None]

    async def _partitions_of(self, pool: str) -> int | None:
        """None where the log answers and has no such topic. Raises Retry where it does not answer: one pool
        somebody forgot to create must not stop the others, but an outage of the log stops all.
        """
        lanes = self._names.lanes(pool)
        try:
            return await self._publisher.partitions(lanes)
        except Retry:
            await self._reader.ends(self._names.results)
        try:
            # Once more: the log may have come back between the two questions.
            return await self._publisher.partitions(lanes)
        except Retry as failure:
            _log.error("pool_without_topics", pool=pool, reason=str(failure))
            return None

    def _write(self, record: Record, item: Accepted | Refused, outgoing: Sequence[Outgoing], done: Done) -> None:
        outgoing = self._missing(record, outgoing)
        if not outgoing:
            done(record)
            return
        # First, for what it raises makes the record poison, not one on its way for ever.
        acks = [self._publisher.send(each) for each in outgoing]
        source, size = source_of(record), OnItsWay.size_of(outgoing)
        self._writing.add(source)
        self._on_its_way.size += size

        def acknowledged(failure: BaseException | None) -> None:
            self._writing.discard(source)
            self._on_its_way.size -= size
            if failure is None:
                done(record)
            elif isinstance(failure, Poison) and isinstance(item, Accepted):
                self._refuse_instead(record, item, failure, done)
            else:
                # Whether the records are in the log is unknown. A new process looks and writes what is missing.
                self._fail(Fatal(f"a write of the gate was not acknowledged: {failure}"))

        when_acknowledged(acks, self._pending, acknowledged)

    def _refuse_instead(self, record: Record, item: Accepted, failure: Poison, done: Done) -> None:
        """What it led to is larger than a record can be, for ever: not its partition but the request ends here."""
        _log.error("gate_write_refused", partition=record.partition, offset=record.offset, reason=str(failure))
        detail = error(ErrorCode.TOO_LARGE, "what it leads to is larger than a record can be")
        refusal, version = _refusal(item, detail), item.job.config_version
        self._write(record, refusal, self._outcomes.refused(record, refusal, version, self._clock.now_ms()), done)

    def _missing(self, record: Record, outgoing: Sequence[Outgoing]) -> list[Outgoing]:
        """Leave out what a predecessor wrote. Its decision on the record stands, even where a new one
        would differ: any terminal or lane record of this source is *the* effect.
        """
        found = self._effects.pop(source_of(record), None) if self._effects else None
        if not found or record.offset >= self._inherited.get(record.tp, 0):
            return list(outgoing)
        topics = {effect.topic for effect in found}
        ended = bool(topics - {self._names.decisions})
        return [
            item for item in outgoing if item.topic not in topics and (not ended or item.topic == self._names.decisions)
        ]


def _refusal(item: Accepted, detail: ErrorDetail) -> Refused:
    job = item.job
    return Refused(
        detail,
        item.fingerprint,
        (job.tenant_id, job.request_id),
        tenant_known=True,
        idempotency_key=job.idempotency_key,
        priority=job.priority,
        labels=job.labels,
    )


def _answer_for(record: Record, admission: Admission, asking: Answering) -> Result | None:
    """The result at the stored position if it is the one meant: in a topic made anew another stands there."""
    try:
        stored = decode(Result, record.value or b"")
    except DecodeError:
        return None
    meant = (
        stored.request_id in (admission.owner_request_id, asking.request_id)
        or stored.idempotency_key == asking.idempotency_key
    )
    return stored if meant and stored.tenant_id == asking.tenant_id else None


def _answering(record: Record, item: Accepted | Refused) -> Answering:
    identity = identity_header(source_of(record), item.fingerprint)[1].decode()
    if isinstance(item, Accepted):
        job = item.job
        return Answering(
            tenant_id=job.tenant_id,
            request_id=job.request_id,
            idempotency_key=job.idempotency_key,
            priority=job.priority,
            labels=job.labels,
            received_ms=record.timestamp_ms,
            identity=identity,
        )
    assert item.ids is not None
    return Answering(
        tenant_id=item.ids[0],
        request_id=item.ids[1],
        idempotency_key=item.idempotency_key,
        priority=item.priority,
        labels=item.labels or {},
        received_ms=record.timestamp_ms,
        identity=identity,
    )


def _label(item: Accepted | Refused, outcome: AdmissionOutcome | None) -> str:
    if isinstance(item, Refused):
        return "dead_lettered" if item.ids is None else item.detail.code.value
    return outcome.value if outcome is not None else "unknown"
