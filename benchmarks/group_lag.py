"""How far the group of each stage is behind its topics, and whether one falls behind while a load lasts."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.errors import Retry
from fairlane.settings import Settings
from fairlane.streams.topology import STAGES, StageSpec

POOLS = ("bench", "flooded")
EVERY_S = 2.0
LOOKS_LEAST = 5


class Behind(NamedTuple):
    """The records of a group's topics: those after its committed positions, and all that were ever appended."""

    records: int
    appended: int


class Look(NamedTuple):
    """All groups at one time, in seconds of the wall clock."""

    at: float
    groups: Mapping[str, Behind]


class GroupLag:
    """The lag of each stage's group on the topics of :data:`POOLS`."""

    def __init__(self, settings: Settings, reader: KafkaReader) -> None:
        self._reader = reader
        self._groups = {
            spec.name: (spec.group(settings.group_prefix), _inputs(spec, settings.topic_prefix)) for spec in STAGES
        }

    async def look(self) -> dict[str, Behind]:
        """Each stage's group as it is now. Raises Retry where the broker cannot say."""
        found = {}
        for name, (group, topics) in self._groups.items():
            records = appended = 0
            for topic in topics:
                ends = await self._reader.ends(topic)
                positions = await self._reader.group_positions(group, topic)
                records += sum(end - (positions[p].offset if p in positions else 0) for p, end in ends.items())
                appended += sum(ends.values())
            found[name] = Behind(records, appended)
        return found


@asynccontextmanager
async def looking(settings: Settings) -> AsyncIterator[list[Look]]:
    """A list that gets a look every :data:`EVERY_S` seconds while the block runs; without those that failed."""
    reader = KafkaReader(settings.kafka_bootstrap)
    lag, looks = GroupLag(settings, reader), list[Look]()

    async def go_on() -> None:
        while True:
            with suppress(Retry):  # a group that moves; fell_behind tells where too few looks are left
                looks.append(Look(time.time(), await lag.look()))
            await asyncio.sleep(EVERY_S)

    await reader.start()
    going_on = asyncio.create_task(go_on())
    try:
        yield looks
    finally:
        going_on.cancel()
        ended = await asyncio.gather(going_on, return_exceptions=True)
        await reader.stop()
    if isinstance(ended[0], Exception):
        raise ended[0]


def fell_behind(looks: Sequence[Look], began: float, seconds: float) -> dict[str, float]:
    """By how many seconds of what it is sent each group was further behind in the last third of a load than in the
    second: the difference of the medians of its lag, by the rate at which its topics grew. Infinite for groups that
    were seen fewer than :data:`LOOKS_LEAST` times in one of the thirds. ``began`` is of the wall clock.
    """
    third = seconds / 3
    middle, last = (
        [look for look in looks if 0 <= look.at - begin < third] for begin in (began + third, began + 2 * third)
    )
    grown = {}
    for name in [spec.name for spec in STAGES]:
        before, after = ([(look.at, look.groups[name]) for look in part] for part in (middle, last))
        if min(len(before), len(after)) < LOOKS_LEAST:
            grown[name] = math.inf
            continue
        (first_at, first), (end_at, end) = before[0], after[-1]
        per_second = (end.appended - first.appended) / (end_at - first_at)
        levels = [statistics.median([behind.records for _, behind in part]) for part in (before, after)]
        grown[name] = (levels[1] - levels[0]) / per_second if per_second else math.inf
    return grown


def _inputs(spec: StageSpec, prefix: str) -> list[str]:
    return [
        prefix + topic.name.format(pool=pool) for topic in spec.inputs for pool in (POOLS if topic.per_pool else [""])
    ]
