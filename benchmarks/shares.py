"""Shares of two tenants that both wait, at weights 4:1, while the dispatchers are killed in between."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from benchmarks.cases import FLOODED_MODEL, HEAVY, HEAVY_WEIGHT, LIGHT, Case
from benchmarks.chain import rows_follow
from benchmarks.measures import Measures
from benchmarks.own_stack import BenchStack
from fairlane.devstack.state import load_state
from fairlane.errors import Fatal
from fairlane.sinks.connection import ClickHouseConnection

CASE = Case("shares", 600, 12, model=FLOODED_MODEL, names=(HEAVY, LIGHT))
"""Each asks for 300 requests a second of a pool that serves 350: both wait from the first second on."""
KILL_AFTER_S = 6.0
BOTH_WAIT_AFTER = timedelta(seconds=1)


class Served(NamedTuple):
    """One request that left its lane: when, whose, and its tokens, output counted twice as the scheduler does."""

    at: datetime
    tenant: str
    units: float


async def measure_shares(stack: BenchStack, measures: Measures, say: Callable[[str], None]) -> None:
    """Both ask the same; ``kill -9`` of both dispatchers at once, so that the pool has another owner in between."""
    load = asyncio.create_task(stack.offer(CASE))
    try:
        await asyncio.wait([load], timeout=KILL_AFTER_S)
        _kill_dispatchers(stack)
        measured = await load
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    await rows_follow(stack, measured)
    ratio = shares(await _served(stack, measured["run"]))
    measures.add("shares", "times", ratio=ratio, **{"distance from 4": abs(ratio - HEAVY_WEIGHT)})
    say(f"shares: {ratio:.3f} to 1 at weights {HEAVY_WEIGHT}:1, over the dispatchers before and after a kill -9")


def shares(served: Sequence[Served]) -> float:
    """What the heavy tenant got for each unit of the light one while both waited.

    That is from a second after the first request that was served to the last one of whoever had all served first.
    Raises Fatal where one of them got nothing in that time.
    """
    got = dict.fromkeys((HEAVY, LIGHT), 0.0)
    if served:
        ordered = sorted(served)
        begin, end = ordered[0].at + BOTH_WAIT_AFTER, min({each.tenant: each.at for each in ordered}.values())
        for each in ordered:
            if begin <= each.at <= end:
                got[each.tenant] += each.units
    if not got[LIGHT]:
        raise Fatal(f"{LIGHT} was not served while both tenants waited")
    return got[HEAVY] / got[LIGHT]


def _kill_dispatchers(stack: BenchStack) -> None:
    state = load_state(stack.state_dir)
    victims = [each for each in state.processes if each.stage == "dispatcher"] if state is not None else []
    if not victims:
        raise Fatal("no dispatcher runs")
    for victim in victims:
        os.kill(victim.identity.pid, signal.SIGKILL)


async def _served(stack: BenchStack, run: str) -> list[Served]:
    connection = ClickHouseConnection(stack.settings.clickhouse_url)
    try:
        rows = await connection.rows(
            f"SELECT dispatched_at, tenant_id, input_tokens + 2 * output_tokens FROM {stack.settings.clickhouse_database}"  # noqa: S608, E501 - our own names
            f".requests WHERE startsWith(request_id, '{run}-') AND dispatched_at IS NOT NULL"
        )
    finally:
        await connection.close()
    return [Served(at, tenant, float(units)) for at, tenant, units in rows]
