"""One fault from its baseline to its verdict."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from fairlane.errors import Fatal, Retry
from tests.chaos.chaos_stack import ChaosStack, eventually
from tests.chaos.fault import RECOVERY_BOUND_S, UNACKNOWLEDGED_BAR, Fault, Scene, now
from tests.chaos.judge import TABLES, Counts, Evidence, judge, late_of, settled
from tests.chaos.load import Load, Sent
from tests.chaos.log_observer import LogObserver, Seen
from tests.chaos.probes import Probes
from tests.chaos.recovery import DRIFT, Baseline, baseline, recovered_after, within_drift
from tests.chaos.stack_config import MAIN_POOL, NARROW_MODEL, NARROW_POOL, NARROW_SLOTS, WEIGHTS
from tests.chaos.takeover import busiest, takeovers, valid_inbox, widest_gap

RATE = 50.0
FLOOD_RATE = 84.0
"""Of the narrow pool, which serves about 56 a second: above the share of each tenant, so that all of them wait."""
FLOOD_TENANTS = (*(name for name, weight in WEIGHTS.items() for _ in range(round(weight))), "acme", "acme")
"""One asks for three times what its weight says of the others: first come, first served would give it that, and so
break the bound on the gap within seconds."""
FLOOD_KINDS = {"good": 1}
BASELINE_S = 5.0
LEAD_S = 1.0
"""Of the load before the baseline: the first requests of a run learn topics and open connections."""
ANSWER_S = 1.0
"""After the baseline: the last of its requests are answered by then, or the chain is not at rest."""
SETTLE_BOUND_S = 60.0
TAKEOVER_BAR_S = 10.0
SLOTS_SEEN_S = 1.0
"""An owner of the flooded pool uses all slots within this."""
WARM_UP_S = 25.0
"""Of load on a new stack before the first baseline: the broker's code is compiled, pools of connections filled."""
WARM_S = 10.0
"""The end of it, which is the first calm time of the stack."""


@dataclass(slots=True)
class Outcome:
    """A row of the table. ``recovery_s`` is the longest of its steps; infinity where it was not seen."""

    name: str
    what: str
    counts: Counts
    recovery_s: float | None
    seconds: float
    restarts: int
    usual: Baseline | None
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Bars that were missed, and what the fault itself found."""


class Experiment:
    """Runs faults on one stack, one after the other. Use it between :meth:`start` and :meth:`stop`."""

    def __init__(self, stack: ChaosStack, say: Callable[[str], None]) -> None:
        self._stack = stack
        self._say = say
        self._observer = LogObserver(stack.settings.kafka_bootstrap, stack.settings.topic_prefix)
        self._probes = Probes(stack)
        self._sent: list[Sent] = []
        self._calls_before = 0
        self._without_late_records: list[str] = []
        """The runs whose fault stops no process past its lease."""
        self._first: Baseline | None = None
        """Of the first calm time of this stack."""

    async def start(self) -> None:
        """Begin to watch."""
        await self._observer.start()
        await self._probes.start()
        self._calls_before = await self._stack.provider_calls()

    async def warm_up(self) -> None:
        """Offer load and wait until it is answered."""
        load = self._load("warm-up")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(load.stop)
            await load.start()
            await asyncio.sleep(WARM_UP_S)
            warm_s = now() - ANSWER_S
            self._baseline(load, warm_s - WARM_S, warm_s)
        self._sent += load.sent
        self._without_late_records.append(load.run)

        async def answered() -> bool:
            # Those of the slow pool as well: their calls, and what they hold, would be counted for the first row.
            held = any(usage.held_nano_usd for usage in (await self._stack.usage()).values())
            return not held and all(
                self._observer.answered_s(sent.key) for sent in load.sent if sent.fresh or sent.slow
            )

        if not await eventually(answered, SETTLE_BOUND_S):
            raise Fatal("a new stack did not answer its first requests")

    async def stop(self) -> None:
        """Watch no more."""
        try:
            await self._probes.stop()
        finally:
            await self._observer.stop()

    async def run(self, fault: Fault) -> Outcome:
        """Run one fault; raises Fatal where the stack itself is gone."""
        began, run = time.monotonic(), f"{fault.name}-{uuid.uuid4().hex[:4]}"
        marks, samples_before = self._observer.marks(), len(self._probes.usage)
        spent_before, calls_before = dict(self._observer.spent), await self._stack.provider_calls()
        restarts_before = self._stack.restarts()
        scene = Scene(self._stack, self._observer, self._say)
        load, flood = self._load(run), self._load(f"{run}-n", flood=True)
        recoveries: list[float] = []
        stepped: list[float] = []
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._stack.mend)
            for one in (load, flood) if fault.flooded else (load,):
                # First: it may be interrupted while it connects.
                stack.push_async_callback(one.stop)
                await one.start()
            await asyncio.sleep(LEAD_S)
            began_s = now()
            await asyncio.sleep(BASELINE_S + ANSWER_S)
            offered = (RATE + FLOOD_RATE) / RATE if fault.flooded else 1.0
            usual, own = self._baseline(load, began_s, began_s + BASELINE_S, offered)
            if usual.latency_s < own.latency_s or any(usual.lags[part] < lag for part, lag in own.lags.items()):
                scene.notes.append(f"judged by {DRIFT} times the first baseline: its own was {own}")
            for number, step in enumerate(fault.steps, 1):
                stepped.append(now())
                try:
                    async with asyncio.timeout(fault.bound_s):
                        ended_s = await step(scene)
                except (Fatal, TimeoutError) as failure:
                    scene.failures.append(f"step {number}: {type(failure).__name__}: {failure}")
                    recoveries.append(math.inf)
                    break
                recovery_s = await self._recovered(load, usual, ended_s)
                recoveries.append(recovery_s)
                self._write_course(f"{run}-{number}", load, began_s, ended_s)
                self._say(f"{fault.name}: step {number} of {len(fault.steps)}: recovered in {recovery_s:.1f} s")
        sent = [*load.sent, *flood.sent]
        self._sent += sent
        if not fault.late_records:
            self._without_late_records.append(run)

        async def evidence() -> Evidence:
            calls = await self._stack.provider_calls() - calls_before
            return await self._evidence(run, sent, marks, samples_before, spent_before, calls)

        counts = await self._settle(evidence)
        if fault.flooded:
            self._judge_takeovers(scene, marks, stepped)
        restarts = self._stack.restarts() - restarts_before
        outcome = Outcome(
            fault.name, fault.what, counts, max(recoveries), time.monotonic() - began, restarts, usual, scene.notes
        )
        if counts.unacknowledged:
            outcome.notes.append(f"{counts.unacknowledged} of {counts.offered} were not acknowledged")
        outcome.broken = [*missed(fault, counts, outcome.recovery_s), *scene.failures]
        return outcome

    def _judge_takeovers(self, scene: Scene, marks: Mapping[str, int], stepped: list[float]) -> None:
        log = self._observer.since(marks)
        # Not of the slow pool: between two of its dispatches there is a call of a second and more.
        pools = (MAIN_POOL, NARROW_POOL)
        found = [(pool, takeover) for pool in pools for takeover in takeovers(log, pool) if takeover.at_s >= stepped[0]]
        for pool, takeover in found:
            scene.notes.append(f"{pool} had a new owner {takeover.gap_s:.1f} s after the last dispatch of the old one")
            if takeover.gap_s > TAKEOVER_BAR_S:
                scene.failures.append(f"nobody dispatched for {pool} for {takeover.gap_s:.1f} s")
        narrow = [takeover.at_s for pool, takeover in found if pool == NARROW_POOL]
        if not narrow:
            scene.failures.append("the flooded pool was never taken over: the fault tested nothing")
        for begin_s, end_s in pairwise([*narrow, self._latest_flood_s(log)]):
            if end_s - begin_s < SLOTS_SEEN_S:
                continue
            most = busiest(log, NARROW_POOL, begin_s, end_s)
            if most != NARROW_SLOTS:
                scene.failures.append(f"{most} of {NARROW_SLOTS} slots were used after a takeover")
        gap = widest_gap(log, NARROW_POOL, WEIGHTS, NARROW_SLOTS)
        if gap is None:
            scene.failures.append("no two tenants waited at once: fairness was not tested")
        else:
            scene.notes.append(f"fairness gap {gap.width:.0f} of at most {gap.bound:.0f} ({' and '.join(gap.pair)})")
            if gap.width > gap.bound:
                scene.failures.append(f"the service of {gap.pair} differed by {gap.width:.0f}, above {gap.bound:.0f}")

    @staticmethod
    def _latest_flood_s(log: Mapping[str, Sequence[Seen]]) -> float:
        return max((seen.at_s for seen in valid_inbox(log[f"inbox.{NARROW_POOL}"])), default=0.0)

    async def whole(self) -> Outcome:
        """All that ever happened on this stack, judged once more: what came late is found here."""
        calls = await self._stack.provider_calls() - self._calls_before
        evidence = await self._evidence("", self._sent, dict.fromkeys(self._observer.records, 0), 0, {}, calls)
        counts = judge(evidence)
        outcome = Outcome("(all of these)", "every record since the start", counts, None, 0.0, 0, None)
        every = Fault(
            "all", "", (), calls_bar=None, success_bar=0.0, unacknowledged_bar=UNACKNOWLEDGED_BAR, late_records=True
        )
        late = late_of(evidence, self._without_late_records)
        outcome.broken = [*missed(every, counts, None), *untested(counts), *late]
        return outcome

    def _baseline(self, load: Load, begin_s: float, end_s: float, offered: float = 1.0) -> tuple[Baseline, Baseline]:
        """What recovery is compared with, and what was measured in this time."""
        own = baseline(self._latencies(load), self._probes.lags, begin_s, end_s)
        if self._first is None:
            self._first, offered = own, 1.0
        usual = within_drift(own, self._first, offered)
        told = ", ".join(f"{part} {lag:.0f}" for part, lag in own.lags.items())
        self._say(f"{load.run}: latency {own.latency_s * 1000:.0f} ms, lag of {told}; first {self._first}")
        return usual, own

    def _write_course(self, name: str, load: Load, began_s: float, ended_s: float) -> None:
        """Latency and lag over time, by seconds from the end of the fault, for those who want to see why."""
        file = self._stack.stages_dir / "courses" / f"{name}.csv"
        file.parent.mkdir(exist_ok=True)
        rows = [("latency_s", at, value) for at, value in self._latencies(load)]
        for part, series in self._probes.lags.items():
            rows += [(f"lag of {part}", at, value) for at, value in series if at >= began_s]
        lines = [f"{kind},{at - ended_s:.3f},{value:.3f}\n" for kind, at, value in rows]
        file.write_text("what,seconds,value\n" + "".join(lines))

    def _load(self, run: str, *, flood: bool = False) -> Load:
        settings = self._stack.settings
        bootstrap, prefix = settings.kafka_bootstrap, settings.topic_prefix
        if flood:
            return Load(
                bootstrap, prefix, run, FLOOD_RATE, model=NARROW_MODEL, kinds=FLOOD_KINDS, tenants=FLOOD_TENANTS
            )
        return Load(bootstrap, prefix, run, RATE)

    def _latencies(self, load: Load) -> list[tuple[float, float]]:
        found = []
        for sent in load.sent:
            if sent.fresh:
                answered = self._observer.answered_s(sent.key)
                found.append((sent.due_s, math.inf if answered is None else answered - sent.due_s))
        return found

    async def _recovered(self, load: Load, usual: Baseline, ended_s: float) -> float:
        deadline = time.monotonic() + RECOVERY_BOUND_S
        while time.monotonic() < deadline:
            latencies = [one for one in self._latencies(load) if one[0] >= ended_s]
            lags = {part: [one for one in series if one[0] >= ended_s] for part, series in self._probes.lags.items()}
            after = recovered_after(latencies, lags, usual, ended_s, now())
            if after is not None:
                return after
            await asyncio.sleep(0.25)
        return math.inf

    async def _settle(self, evidence: Callable[[], Any]) -> Counts:
        async def quiet() -> bool:
            try:
                return settled(await evidence())
            except (Retry, OSError):
                return False

        await eventually(quiet, SETTLE_BOUND_S, every_s=0.5)
        return judge(await evidence())

    async def _evidence(
        self, run: str, sent: list[Sent], marks: Mapping[str, int], samples: int, spent: Mapping[str, int], calls: int
    ) -> Evidence:
        like = f" WHERE request_id LIKE '{run}-%'" if run else ""
        tables = {
            table: await self._stack.sql(f"SELECT {columns} FROM {table}{'' if table == 'dead_letters' else like}")
            for table, (_, columns) in TABLES.items()
        }
        usage = await self._stack.usage()
        return Evidence(
            run, sent, self._observer.since(marks), spent, self._probes.usage[samples:], dict(self._observer.spent),
            usage, tables, calls, self._probes.booked,
        )  # fmt: skip


def missed(fault: Fault, counts: Counts, recovery_s: float | None) -> list[str]:
    """The bars of a fault that these figures miss, in words."""
    bars = [
        (counts.lost == 0, f"{counts.lost} lost"),
        (
            counts.unacknowledged <= fault.unacknowledged_bar * counts.offered,
            f"{counts.unacknowledged} of {counts.offered} not acknowledged, above {fault.unacknowledged_bar:.0%}",
        ),
        (counts.duplicates == 0, f"{counts.duplicates} duplicates"),
        (counts.raw_duplicates == 0 or fault.late_records, f"{counts.raw_duplicates} second terminals in the log"),
        (counts.over_budget == 0, f"{counts.over_budget} times over budget"),
        (counts.cancelled_unasked == 0, f"{counts.cancelled_unasked} cancelled that nobody cancelled"),
        (
            counts.cancelled_called == 0 or fault.late_records,
            f"{counts.cancelled_called} called, though they ended as cancelled",
        ),
        (counts.left_held == 0, f"{counts.left_held} tenants with something held at the end"),
        (counts.redis_nano == 0, f"Redis and the log differ by {counts.redis_nano} nano-dollars"),
        (
            not (counts.missing_rows or counts.extra_rows or counts.clickhouse_nano),
            f"ClickHouse lacks {counts.missing_rows} rows, has {counts.extra_rows} too many",
        ),
        (
            fault.calls_bar is None or counts.calls_per_request <= fault.calls_bar,
            f"{counts.calls_per_request:.3f} calls per request, above {fault.calls_bar}",
        ),
        (
            counts.good > 0 and counts.succeeded >= fault.success_bar * counts.good,
            f"only {counts.succeeded} of {counts.good} good requests succeeded",
        ),
        (
            recovery_s is None or recovery_s <= fault.recovery_bar_s,
            f"recovered after {recovery_s} s, later than {fault.recovery_bar_s:.0f} s",
        ),
    ]
    return [text for holds, text in bars if not holds]


def untested(counts: Counts) -> list[str]:
    """What a whole run must have come across, or its zeros say nothing about it."""
    bars = [
        (counts.cancelled > 0, "no request ended cancelled: commands were not tested"),
        (counts.fullest >= 1.0, "no tenant had as many waiting as its cap allows: 'over cap' was not tested"),
    ]
    return [text for holds, text in bars if not holds]
