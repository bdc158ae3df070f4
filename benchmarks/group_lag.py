"""How far the group of each stage is behind its topics, and whether one falls behind while a load lasts."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from benchmarks.trend import Line, low_water
from fairlane.errors import Retry
from fairlane.ports import LogReader
from fairlane.settings import Settings
from fairlane.streams.topology import STAGES, StageSpec

POOLS = ("bench", "flooded")
"""Those of :func:`benchmarks.cases.bench_config`."""
EVERY_S = 1.1
"""Between two looks. The sinks insert every two seconds while little comes: looks in step with that would see one
height of the sawtooth only.
"""
MARK_S = 5.0
LOOKS_LEAST = 10
"""In a third of a load, of the 18 that a minute has."""


class Behind(NamedTuple):
    """The records of a group's topics: those after its committed positions, and all that were ever appended.

    A group may commit between the two questions, so the former can be a little too small, also below zero.
    """

    records: int
    appended: int


class Look(NamedTuple):
    """All groups at one time, in seconds of the monotonic clock."""

    at: float
    groups: Mapping[str, Behind]


class GroupLag:
    """The lag of each stage's group on the topics of :data:`POOLS`."""

    def __init__(self, settings: Settings, reader: LogReader) -> None:
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
async def looking(lag: GroupLag) -> AsyncIterator[list[Look]]:
    """A list that gets a look every :data:`EVERY_S` seconds while the block runs; without those that failed."""
    looks: list[Look] = []

    async def go_on() -> None:
        while True:
            due = time.monotonic() + EVERY_S
            with suppress(Retry):  # a group that moves; fell_behind tells where too few looks are left
                looks.append(Look(time.monotonic(), await lag.look()))
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    going_on = asyncio.create_task(go_on())
    try:
        yield looks
    finally:
        going_on.cancel()
        (ended,) = await asyncio.gather(going_on, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended


async def left(lag: GroupLag, within_s: float) -> float:
    """The records that are not committed yet, of all groups: 0 as soon as there are none, else how many there still
    are after ``within_s`` seconds; infinite where the broker cannot say.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            records = float(sum(group.records for group in (await lag.look()).values()))
        except Retry:
            records = math.inf
        if not records or time.monotonic() >= deadline:
            return records
        await asyncio.sleep(0.5)


def fell_behind(looks: Sequence[Look], began: float, seconds: float) -> dict[str, float]:
    """By how many seconds of what it is sent each group was further behind in the last third of a load than in the
    second: the difference of the medians of its lag's low-water marks of each :data:`MARK_S`, which a sawtooth of
    batches moves little, by the rate at which its topics grew. Infinite for groups that
    were looked at fewer than :data:`LOOKS_LEAST` times in one of the thirds, or that were sent nothing. ``began`` is
    of the monotonic clock, which the processes of a machine share.
    """
    third = seconds / 3
    middle, last = ([look for look in looks if n * third <= look.at - began < (n + 1) * third] for n in (1, 2))
    if min(len(middle), len(last)) < LOOKS_LEAST:
        return dict.fromkeys((spec.name for spec in STAGES), math.inf)
    took_s = last[-1].at - middle[0].at
    grown = {}
    for name in [spec.name for spec in STAGES]:
        sent = last[-1].groups[name].appended - middle[0].groups[name].appended
        before, after = (_level([(look.at, look.groups[name].records) for look in part]) for part in (middle, last))
        grown[name] = (after - before) * took_s / sent if sent else math.inf
    return grown


def _level(points: Line) -> float:
    return statistics.median(mark for _, mark in low_water(points, MARK_S))


def _inputs(spec: StageSpec, prefix: str) -> list[str]:
    return [
        prefix + topic.name.format(pool=pool) for topic in spec.inputs for pool in (POOLS if topic.per_pool else [""])
    ]
