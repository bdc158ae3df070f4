"""One run through a running chain: rows by kind, and what must hold beyond single inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bad_input.corpus import KINDS
from tests.bad_input.processes import Processes, apply_tenants, wait_for_tenants
from tests.bad_input.session import Row, Session
from tests.bad_input.wire import Wire
from tests.integration.running_chain import Chain

GATE_PEAK_MB = 300.0
"""What a gate may take at most while bombs go off: about 80 MB of its own, and a batch of each partition
(16 MiB) in turn."""
BLOCKED_MS = 1000
"""The longest a good record may wait for the gate while bad ones flow."""


@dataclass
class Report:
    """What a run found. ``wrong`` is what no single input stands for."""

    rows: list[Row]
    wrong: list[str]
    good: int
    peaks_mb: Mapping[str, float]

    @property
    def slowest_good_ms(self) -> int:
        """The longest a good record waited for the gate."""
        return max(row.good_slowest_ms for row in self.rows)

    @property
    def figures(self) -> list[str]:
        """The figures of the whole run."""
        inputs, records = sum(row.inputs for row in self.rows), sum(row.records for row in self.rows)
        sent = f"{inputs} inputs, {records} records, {self.good} good records between them"
        return [
            f"{sent}, the slowest decided after {self.slowest_good_ms} ms",
            "peak memory: " + ", ".join(f"{name} {mb:.0f} MB" for name, mb in self.peaks_mb.items()),
        ]


async def run(chain: Chain, counts: Mapping[int, int], seed: int, say: Callable[[str], None]) -> Report:
    """Send so many inputs of each kind through a chain that is up."""
    apply_tenants(chain)
    async with Wire(chain.kafka, chain.prefix) as wire:
        await wait_for_tenants(wire)
        before = Processes.of(chain)
        session, rows = Session(wire, seed), []
        for number, count in counts.items():
            began = time.monotonic()
            row = await session.run(KINDS[number], count)
            rows.append(row)
            say(f"{number:3} {row.kind.name}: {len(row.wrong)} wrong, {time.monotonic() - began:.1f} s")
        after = Processes.of(chain)
        wrong = [f"a secret in {place}" for place in wire.leaks()]
        wrong += [f"a secret in the {place}" for place in after.leaks(chain.state_dir)]
        if before.pids != after.pids:
            wrong.append(f"processes restarted: {before.pids} became {after.pids}")
        peaks = after.peak_mb()
        wrong += [f"{n} took {mb:.0f} MB" for n, mb in peaks.items() if n.startswith("gate") and mb > GATE_PEAK_MB]
        return Report(rows, wrong, session.good_total, peaks)
