"""Writes the effects of a record until they are in the log, without writing any of them twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import stamina

from fairlane.agents.effects import CLOCK_MARGIN_MS
from fairlane.agents.log_time import LogTime
from fairlane.clock import Clock
from fairlane.errors import Fatal, Poison, Retry
from fairlane.ports import LogReader, Outgoing, Publisher, Record
from fairlane.schemas.headers import SOURCE, header
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

LEASE_POLL_S = 0.1


class EffectWriter:
    """Writes while the group lease is certain.

    A write that was not acknowledged may be in the log or not. Before it is repeated the log is read
    for it, so that an outage of the brokers costs neither the effect nor a second one.
    """

    def __init__(
        self,
        publisher: Publisher,
        reader: LogReader,
        clock: Clock,
        *,
        lease_ok: Callable[[], bool],
        held: Callable[[], None],
    ) -> None:
        self._publisher = publisher
        self._reader = reader
        self._log_time = LogTime(clock)
        self._lease_ok = lease_ok
        self._held = held

    def heard(self, record: Record) -> None:
        """Learn the brokers' time from a record that was read."""
        self._log_time.heard(record.timestamp_ms)

    async def lease(self) -> None:
        """Wait until no other worker can own what this one has.

        The lease comes back by a heartbeat of the same membership; if it does not, the partitions are
        revoked, which cancels the caller. It depends on time alone, so there is no event to wait for.
        """
        if self._lease_ok():
            return
        self._held()
        while not self._lease_ok():  # noqa: ASYNC110 - see above
            await asyncio.sleep(LEASE_POLL_S)

    async def write(self, effects: Sequence[Outgoing]) -> list[Outgoing]:
        """Return once all effects are in the log, with those that can never be (too large).

        Raises :class:`~fairlane.errors.Fatal` if this process may not write, or can no longer tell what it
        wrote.
        """
        first_ms, refused = self._log_time.now_ms(), list[Outgoing]()
        try:
            try:
                await self._send(effects, refused)
            except Retry as failure:
                _log.warning("write_unacknowledged", error=str(failure))
                await self._send_missing(effects, refused, first_ms)
        except Fatal:
            raise
        except Exception as failure:
            raise Fatal(f"the effects of a record could not be written: {type(failure).__name__}") from failure
        return refused

    async def _send_missing(self, effects: Sequence[Outgoing], refused: list[Outgoing], first_ms: int) -> None:
        async for attempt in stamina.retry_context(
            on=Retry, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0, wait_jitter=0.1
        ):
            with attempt:
                left = [item for item in effects if item not in refused]
                await self._send(await self._missing(left, first_ms), refused)

    async def _send(self, effects: Sequence[Outgoing], refused: list[Outgoing]) -> None:
        """Send all at once; raises Retry if any was not acknowledged."""
        await self.lease()
        acks = [self._publisher.send(item) for item in effects]
        failures: list[Exception] = []
        try:
            # One after the other, for all are under way: gather costs more than everything else here.
            for item, ack in zip(effects, acks, strict=True):
                try:
                    await ack
                except Poison as failure:
                    _log.error("effect_refused", topic=item.topic, error=str(failure))
                    refused.append(item)
                except Exception as failure:  # noqa: BLE001 - answered below, when it is known what became of all
                    failures.append(failure)
        except asyncio.CancelledError:
            for ack in acks:
                ack.cancel()
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Fatal("the publisher stopped while a write was on its way") from None
        # Whatever is no Retry ends the process, so it goes first.
        failures.sort(key=lambda failed: isinstance(failed, Retry))
        if failures:
            raise failures[0]

    async def _missing(self, effects: Sequence[Outgoing], since_ms: int) -> list[Outgoing]:
        """Those that do not stand in the log. An effect is known by its topic, its source and its event id."""
        found: set[tuple[str, bytes | None, bytes | None]] = set()
        for topic in {item.topic for item in effects}:
            starts = await self._reader.offsets_at(topic, since_ms - CLOCK_MARGIN_MS)
            async for batch in self._reader.read(topic, starts, await self._reader.ends(topic)):
                found.update((topic, *_identity(record.headers)) for record in batch)
        return [item for item in effects if (item.topic, *_identity(item.headers)) not in found]


def _identity(headers: tuple[tuple[str, bytes], ...]) -> tuple[bytes | None, bytes | None]:
    return header(headers, SOURCE), header(headers, "ce_id")
