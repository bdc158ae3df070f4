"""One run through a running chain: rows by kind, and what must hold beyond single inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bad_input.corpus import KINDS
from tests.bad_input.processes import PEAK_MB, Processes, apply_tenants, over_bounds, wait_for_tenants
from tests.bad_input.session import Row, Session
from tests.bad_input.wire import Wire
from tests.integration.running_chain import Chain

BLOCKED_MS = 1000
"""The longest a good record may wait for the gate while bad ones flow."""


@dataclass
class Report:
    """What a run found. ``wrong`` is what no single input stands for."""

    rows: list[Row]
    wrong: list[str]
    good: int

    @property
    def slowest_good_ms(self) -> int:
        """The longest a good record waited for the gate."""
        return max(row.good_slowest_ms for row in self.rows)

    @property
    def peaks_mb(self) -> dict[str, float]:
        """The most memory a process of each stage had."""
        stages = {stage for row in self.rows for stage in row.peaks_mb}
        return {stage: max(row.peaks_mb.get(stage, 0.0) for row in self.rows) for stage in sorted(stages)}

    @property
    def figures(self) -> list[str]:
        """The figures of the whole run."""
        plain, mutated = sum(row.plain for row in self.rows), sum(row.mutated for row in self.rows)
        records = sum(row.records for row in self.rows)
        sent = f"{mutated} mutated and {plain} plain inputs, {records} records, {self.good} good records between them"
        peaks = (f"{stage} {mb:.0f} MB (bound {PEAK_MB.get(stage, 0):.0f})" for stage, mb in self.peaks_mb.items())
        return [f"{sent}, the slowest decided after {self.slowest_good_ms} ms", "peak memory: " + ", ".join(peaks)]


async def run(chain: Chain, counts: Mapping[int, int], seed: int, say: Callable[[str], None]) -> Report:
    """Send so many inputs of each kind through a chain that is up."""
    apply_tenants(chain)
    async with Wire(chain.kafka, chain.prefix) as wire:
        await wait_for_tenants(wire)
        before = Processes.of(chain)
        session, rows = Session(wire, seed), []
        for number, count in counts.items():
            began = time.monotonic()
            before.forget_peaks()
            row = await session.run(KINDS[number], count)
            row.peaks_mb = before.peaks_mb()
            row.wrong += over_bounds(row.peaks_mb)
            rows.append(row)
            say(f"{number:3} {row.kind.name}: {len(row.wrong)} wrong, {time.monotonic() - began:.1f} s")
        after = Processes.of(chain)
        wrong = [f"a secret in {place}" for place in wire.leaks()]
        wrong += [f"a secret in the {place}" for place in after.leaks(chain.state_dir)]
        if before.pids != after.pids:
            wrong.append(f"processes restarted: {before.pids} became {after.pids}")
        return Report(rows, wrong, session.good_total)
