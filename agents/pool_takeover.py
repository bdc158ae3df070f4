"""What a new owner of a pool rebuilds from the log before it dispatches anything.

1. A new epoch is written into every inbox partition. From its marker on, records of older epochs are
   void for every reader, so a predecessor that still runs can bind nothing any more.
2. What stands in the inbox below the markers was dispatched: its lane records are not dispatched again.
3. Of that, what the workers have neither committed nor answered is in flight and holds a slot.
4. Fairness counters come from the last snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fairlane.agents.effects import CLOCK_MARGIN_MS, effects_since, first_timestamp, source_prefix
from fairlane.agents.inbox_epochs import EPOCH_AHEAD_MS, decode_note, dispatch_of
from fairlane.agents.topic_names import TopicNames
from fairlane.errors import Retry
from fairlane.policy.offsets import decode_metadata
from fairlane.ports import LogReader, Outgoing, Publisher, Record, Restored, TopicPartition
from fairlane.schemas.codec import DecodeError, decode, encode
from fairlane.schemas.headers import DISPATCH, SOURCE, header
from fairlane.schemas.job import Dispatch
from fairlane.schemas.scheduler_state import SchedulerState
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

MARKER_KEY = b"epoch"
"""A marker has no value, and a record needs a key or a value."""
LEASE_WAIT_S = 0.1


@dataclass(slots=True)
class Inherited:
    """The state of a pool as its predecessor left it. ``in_flight`` maps request keys to slot groups."""

    epoch: int
    groups: int
    in_flight: dict[bytes, int] = field(default_factory=dict)
    handled: set[bytes] = field(default_factory=set)
    """Sources (lane records) that were dispatched, or ended in the lane, also as dead letters."""
    decided: set[bytes] = field(default_factory=set)
    """Sources whose decision is in the log."""
    state: SchedulerState | None = None
    markers: Mapping[int, int] = field(default_factory=dict)
    """Offsets of this epoch's markers in the inbox, by partition."""
    since_ms: int | None = None
    """When the oldest lane record arrived that is still to be delivered; None if there is none."""


async def take_over(
    pool: str,
    restored: Mapping[TopicPartition, Restored],
    *,
    names: TopicNames,
    reader: LogReader,
    publisher: Publisher,
    worker_group: str,
    now_ms: int,
    lease_ok: Callable[[], bool],
) -> Inherited:
    """Rebuild a pool's state. Raises Retry while the log is not reachable or the lease on the pool not certain."""
    state = await _last_state(reader, names, pool)
    since = await first_timestamp(reader, restored)
    prefixes = tuple(source_prefix(partition) for partition in restored)
    epoch = max(now_ms, state.epoch + 1 if state is not None else 0)
    while True:
        if not lease_ok():
            # A marker of one who was stopped in here would void all that the pool's owner dispatches from then on.
            raise Retry(f"the lease on pool {pool} is not certain", after=LEASE_WAIT_S)
        markers = await _write_markers(publisher, names.inbox(pool), epoch)
        inherited = Inherited(epoch, groups=len(markers), state=state, markers=markers, since_ms=since)
        oldest, highest = await _read_inbox(
            reader, names.inbox(pool), markers, worker_group, since, prefixes, inherited
        )
        if highest < epoch:
            break
        # A predecessor whose clock was ahead died before its first snapshot. Under a lower epoch than its
        # marker, whatever this owner dispatched would be void.
        epoch = highest + 1
    stamps = [stamp for stamp in (since, oldest) if stamp is not None]
    if stamps:
        await _read_results(reader, names.results, min(stamps), prefixes, inherited)
    if since is not None:
        letters = await effects_since(reader, [names.dead_letters], since, prefixes)
        inherited.handled |= {effect.source for effect in letters}
        decisions = await effects_since(reader, [names.decisions], since, prefixes)
        inherited.decided = {effect.source for effect in decisions}
    _log.info(
        "pool_takeover",
        pool=pool,
        epoch=epoch,
        in_flight=len(inherited.in_flight),
        count=len(inherited.handled),
    )
    return inherited


async def _last_state(reader: LogReader, names: TopicNames, pool: str) -> SchedulerState | None:
    topic, key = names.scheduler_state, pool.encode()
    last: Record | None = None
    async for batch in reader.read(topic, await reader.starts(topic), await reader.ends(topic)):
        for record in batch:
            if record.key == key:
                last = record
    if last is None or last.value is None:
        return None
    # Written by another version, or by somebody else: start fair and even rather than not at all.
    try:
        state = decode(SchedulerState, last.value)
    except DecodeError as failure:
        _log.warning("scheduler_state_unreadable", pool=pool, error=str(failure))
        return None
    if state.epoch > last.timestamp_ms + EPOCH_AHEAD_MS:
        _log.warning("scheduler_state_epoch_impossible", pool=pool)
        return None
    return state


async def _write_markers(publisher: Publisher, inbox: str, epoch: int) -> dict[int, int]:
    """Offsets of this epoch's markers by partition."""
    groups = await publisher.partitions(inbox)
    value = encode(Dispatch(epoch=epoch, dispatched_ms=epoch))
    markers = [Outgoing(inbox, MARKER_KEY, None, ((DISPATCH, value),), partition) for partition in range(groups)]
    written = await asyncio.gather(*(publisher.send(marker) for marker in markers))
    return {record.partition: record.offset for record in written}


async def _read_inbox(
    reader: LogReader,
    inbox: str,
    markers: Mapping[int, int],
    worker_group: str,
    since_ms: int | None,
    prefixes: tuple[bytes, ...],
    inherited: Inherited,
) -> tuple[int | None, int]:
    """Fill ``in_flight`` and ``handled``; returns the time of the oldest record in flight, and the highest epoch
    below the markers.
    """
    positions = await reader.group_positions(worker_group, inbox)
    starts = dict(await reader.starts(inbox))
    recent = await reader.offsets_at(inbox, since_ms - CLOCK_MARGIN_MS) if since_ms is not None else markers
    # ``noted`` is the epoch at the committed position: it says nothing of what stands before that.
    unfinished, epochs, noted, begin = dict(starts), dict.fromkeys(markers, 0), dict.fromkeys(markers, 0), {}
    finished: dict[int, frozenset[int]] = {}
    for partition, marker in markers.items():
        position = positions.get(partition)
        if position is not None:
            unfinished[partition] = max(position.offset, starts.get(partition, 0))
            finished[partition], note = decode_metadata(position.offset, position.metadata)
            noted[partition] = decode_note(note)[0]
        begin[partition] = min(unfinished.get(partition, 0), recent.get(partition, marker), marker)
    oldest: int | None = None
    async for batch in reader.read(inbox, begin, markers):
        for record in batch:
            partition = record.partition
            dispatch = dispatch_of(record)
            if dispatch is None:
                # No dispatcher wrote it: a worker makes it a dead letter, and no slot is taken.
                continue
            epoch = dispatch.epoch
            if record.offset >= unfinished.get(partition, 0):
                epochs[partition] = max(epochs[partition], noted[partition])
            if epoch < epochs[partition]:
                continue
            epochs[partition] = epoch
            if record.value is None or record.key is None:
                continue
            source = header(record.headers, SOURCE)
            if source is not None and source.startswith(prefixes):
                inherited.handled.add(source)
            if record.offset >= unfinished.get(partition, 0) and record.offset not in finished.get(
                partition, frozenset()
            ):
                inherited.in_flight[record.key] = partition
                oldest = record.timestamp_ms if oldest is None else min(oldest, record.timestamp_ms)
    return oldest, max((*epochs.values(), *noted.values()))


async def _read_results(
    reader: LogReader, results: str, since_ms: int, prefixes: tuple[bytes, ...], inherited: Inherited
) -> None:
    """Take out of flight what has a terminal, and learn what ended in the lane."""
    starts, ends = await reader.offsets_at(results, since_ms - CLOCK_MARGIN_MS), await reader.ends(results)
    async for batch in reader.read(results, starts, ends):
        for record in batch:
            if record.key is not None:
                inherited.in_flight.pop(record.key, None)
            source = header(record.headers, SOURCE)
            if source is not None and source.startswith(prefixes):
                inherited.handled.add(source)
