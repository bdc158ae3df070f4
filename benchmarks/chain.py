"""The whole chain under load: latency, rates, CPU and memory, the flood, and the highest rate it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.cases import FLOODED_MODEL, Case
from benchmarks.cpu import busy_s, spent, used
from benchmarks.group_lag import GroupLag, fell_behind, left, looking
from benchmarks.measures import Measures
from benchmarks.own_stack import BenchStack
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.errors import FairlaneError
from fairlane.sinks.connection import ClickHouseConnection

Say = Callable[[str], None]

HELD_SHARE = 0.98
"""A rate is held if answers come at this share of it, all succeed, the last is there soon after its request, and no
group falls behind meanwhile: what is answered in time while rows or settlements wait ever longer is borrowed."""
HELD_AFTER_S = 2.0
FELL_BEHIND_S = 1.0
"""Seconds of load, between the second and the last third of a minute: what leaves a twentieth of its work undone."""
DRAINED_WITHIN_S = 60.0
"""After a load every group has committed all, so that a step begins without what the one before left."""
ROWS_WITHIN_S = 60.0
LIGHT_RATE = 20.0
LIGHT_TENANTS = 4
FLOOD_TIMES = 100

WARM_UP = Case("warm-up", 800, 45)
"""The broker's code is compiled while it runs: after twenty seconds at 400 requests a second its compiler still took
a fifth of a core."""
CASES = (
    Case("100/s", 100, 20),
    Case("500/s", 500, 15),
    Case("1000/s", 1000, 60),
    Case("300/s of 16 KB", 300, 10, body_bytes=16_384),
    Case("500/s of 1,000 tenants", 500, 15, tenants=1000),
    Case("500/s with sim-small", 500, 15, model="sim-small"),
)
QUICK_WARM_UP = Case("warm-up", 400, 8)
QUICK_CASES = (Case("100/s", 100, 8), Case("1000/s", 1000, 10))
STAIR = (1000.0, 1250.0, 1500.0, 1750.0, 2000.0, 2250.0, 2500.0, 3000.0)
LOWER = (750.0, 500.0, 250.0)
"""Where not even the first step is held."""
STEP_S = 60.0


async def measure_chain(stack: BenchStack, measures: Measures, say: Say, *, quick: bool) -> None:
    """Run the cases one after the other on a warm stack."""
    await measure_case(stack, QUICK_WARM_UP if quick else WARM_UP, measures, say)
    for case in QUICK_CASES if quick else CASES:
        await measure_case(stack, case, measures, say)
    if not quick:
        await _flood(stack, measures, say)
        await _stair(stack, measures, say)


async def measure_case(stack: BenchStack, case: Case, measures: Measures, say: Say) -> dict[str, Any]:
    """Offer one load and note what it came to."""
    before, busy, began = used(stack.pids()), busy_s(), time.monotonic()
    load = await stack.offer(case)
    after, busy, took_s = used(stack.pids()), busy_s() - busy, time.monotonic() - began
    answered = max(1, load["answered"])
    measures.loads.append(load)
    added, queue = load["added_ms"], load["queue_ms"]
    measures.add(case.name, "1/s", offered=load["offered_per_s"], achieved=load["achieved_per_s"])
    measures.add(case.name, "requests", sent=load["requests"] - load["unsent"], answered=load["answered"])
    measures.add(case.name, "requests", duplicates=load["duplicates"], succeeded=load["statuses"].get("succeeded", 0))
    for percent in ("50", "95", "99", "100"):
        name = "max" if percent == "100" else f"p{percent}"
        measures.add(case.name, "ms", **{f"added {name}": added.get(percent, float("nan"))})
        measures.add(case.name, "ms", **{f"queue {name}": queue.get(percent, float("nan"))})
    measures.add(case.name, "ms", **{"sent late p99": load["behind_ms"]["99"]})
    cpu = spent(before, after)
    for name, seconds in cpu.items():
        measures.add(f"{case.name}: {name}", "µs/request", cpu=seconds / answered * 1e6)
    measures.add(case.name, "µs/request", **{"cpu of the stack": sum(cpu.values()) / answered * 1e6})
    measures.add(case.name, "cores", **{"busy, whole machine": busy / took_s})
    for name, now in after.items():
        measures.add(f"memory: {name}", "MB", resident=now.rss / 1e6)
    say(
        f"{case.name}: {load['achieved_per_s']:.0f}/s of {load['offered_per_s']:.0f}/s offered, "
        f"added p50 {added.get('50', 0):.1f} p99 {added.get('99', 0):.1f} max {added.get('100', 0):.0f} ms, "
        f"queue p50 {queue.get('50', 0):.0f} ms, {sum(cpu.values()) / answered * 1e6:.0f} µs of CPU a request, "
        f"{busy / took_s:.2f} cores busy, {load['statuses']}"
    )
    behind_s = await rows_follow(stack, load)
    measures.add(case.name, "s", **{"rows behind": behind_s})
    return load


def held(load: dict[str, Any], behind_s: Mapping[str, float], undone: float) -> bool:
    """Whether the chain held the rate it was offered: with the seconds by which each group fell behind meanwhile, and
    the records that were left when it had time to do them.
    """
    case = load["case"]
    return bool(
        load["answered"] == load["requests"] == load["statuses"].get("succeeded", 0)
        and load["last_answer_s"] - case["seconds"] <= HELD_AFTER_S
        and load["achieved_per_s"] >= case["rate"] * HELD_SHARE - 0.5
        and all(seconds <= FELL_BEHIND_S for seconds in behind_s.values())
        and not undone
    )


async def rows_follow(stack: BenchStack, load: dict[str, Any]) -> float:
    """Seconds until ClickHouse has a row for every answer of a load; infinite if it takes too long."""
    connection = ClickHouseConnection(stack.settings.clickhouse_url)
    query = (
        f"SELECT count() FROM {stack.settings.clickhouse_database}.requests "  # noqa: S608 - our own names
        f"WHERE startsWith(request_id, '{load['run']}-')"
    )
    began = time.monotonic()
    try:
        while time.monotonic() - began < ROWS_WITHIN_S:
            try:
                ((rows,),) = await connection.rows(query)
            except FairlaneError:
                rows = 0
            if rows >= load["answered"]:
                return time.monotonic() - began
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    return float("inf")


async def _flood(stack: BenchStack, measures: Measures, say: Say) -> None:
    """Light tenants alone, then beside one that asks for 100 times as much as each of them."""
    light = Case("light alone", LIGHT_RATE, 20, model=FLOODED_MODEL, tenants=LIGHT_TENANTS)
    alone = await measure_case(stack, light, measures, say)
    rate = LIGHT_RATE / LIGHT_TENANTS * FLOOD_TIMES
    flooded = await measure_case(
        stack,
        Case("light in a flood", LIGHT_RATE, 20, model=FLOODED_MODEL, tenants=LIGHT_TENANTS, flood_rate=rate),
        measures,
        say,
    )
    calm, wait = alone["queue_ms"], flooded["queue_ms"]
    measures.add("flood", "ms", **{"light queue p99": wait["99"], "light queue p99 alone": calm["99"]})
    measures.add("flood", "times", **{"light queue p99 ratio": wait["99"] / max(1.0, calm["99"])})
    measures.add("flood", "ms", **{"flooder queue p99": flooded["flood_queue_ms"].get("99", float("nan"))})


async def highest_held(holds: Callable[[float], Awaitable[bool]]) -> float:
    """The last step of :data:`STAIR` before one that is not held, or the first of :data:`LOWER` that is; 0 if none."""
    highest = 0.0
    for rate in STAIR:
        if not await holds(rate):
            break
        highest = rate
    if highest:
        return highest
    for rate in LOWER:
        if await holds(rate):
            return rate
    return 0.0


async def _stair(stack: BenchStack, measures: Measures, say: Say) -> None:
    reader = KafkaReader(stack.settings.kafka_bootstrap)
    lag = GroupLag(stack.settings, reader)

    async def holds(rate: float) -> bool:
        name = f"stair {rate:g}/s"
        async with looking(lag) as looks:
            load = await measure_case(stack, Case(name, rate, STEP_S), measures, say)
        behind_s = fell_behind(looks, load["began_at"], STEP_S)
        measures.add(name, "s", **{f"{group} fell behind": seconds for group, seconds in behind_s.items()})
        undone = await left(lag, DRAINED_WITHIN_S)
        found = held(load, behind_s, undone)
        worst = max(behind_s, key=lambda group: behind_s[group])
        say(
            f"{name}: {'held' if found else 'not held'}; {worst} fell behind by {behind_s[worst]:.2f} s, "
            f"{undone:g} records left afterwards"
        )
        return found

    await reader.start()
    try:
        await left(lag, DRAINED_WITHIN_S)
        measures.add("chain", "1/s", sustained=await highest_held(holds))
    finally:
        await reader.stop()
