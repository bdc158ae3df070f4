"""One step of the flow, and the engine that feeds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fairlane.ports.log import Record, TopicPartition


@dataclass(frozen=True, slots=True)
class Restored:
    """What an engine hands a stage with a partition: where reading goes on, and what a predecessor noted.

    ``finished`` are offsets at or past ``offset`` whose effects are already acknowledged; the engine
    does not deliver them. ``end`` is the log end at assignment: a record below it may have been
    begun by a predecessor. ``note`` is the stage's own part of the commit metadata.
    """

    offset: int
    end: int
    finished: frozenset[int] = frozenset()
    note: str = ""


Done = Callable[[Record], None]
"""Tells the engine that every effect of a record is acknowledged. Idempotent, any order."""


class Stage(Protocol):
    """One step of the flow as an engine sees it. Engines call these methods from one task (only
    :meth:`drain` may overlap with :meth:`revoked`).

    A rebalance that leaves a partition with this process goes unseen: the stage keeps what it has in
    flight, and the engine delivers none of it again. A record is delivered a second time only after
    the stage gave it back (by raising, or because its partition was revoked).
    """

    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        """Newly owned partitions; records of them follow only after this returns.

        Raising Retry: called again after its delay.
        """
        ...

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        """Take records (in order per partition) and return when the next batch may come.

        ``done`` may be called later, from other tasks of the same event loop. Raising gives back every
        record of the batch that is not done. Retry: they are delivered again after its delay; Fatal:
        the process stops; anything else is a bug: the engine logs it and delivers the records one by
        one, and hands one that still fails to :meth:`poisoned`.
        """
        ...

    async def poisoned(self, record: Record, failure: Exception) -> None:
        """A record failed every try: give it its terminal, so that its partition goes on.

        The record is done when this returns. Raising Retry: called again after its delay.
        """
        ...

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """These are no longer owned: abandon what is unfinished. The engine has committed what is done.

        Must not raise.
        """
        ...

    async def drain(self) -> None:
        """The process stops: finish or hand back what is in flight, within the engine's drain time."""
        ...

    def note(self, partition: TopicPartition) -> str:
        """What to keep beside the commit of a partition (at most 200 ASCII characters, no ``|``)."""
        ...


class Engine(Protocol):
    """Feeds one stage from its topics and commits what it has done."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until ``stopping`` is set (then drain, commit, leave) or a Fatal error is raised."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the engine has joined and its stage has taken its partitions."""
        ...
