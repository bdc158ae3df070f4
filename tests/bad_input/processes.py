"""The chain under test as processes: its tenants, and what its stages take, say and keep."""

from __future__ import annotations

import asyncio
import os
import random
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bad_input.case import CANARIES, Input, new_id, value
from tests.bad_input.wire import Wire
from tests.integration.running_chain import Chain

ANSWER_S = 60.0
TENANTS = """
tenants:
  - {tenant_id: acme, max_undispatched: 100000}
  - {tenant_id: picky, models: [sim-instant], max_undispatched: 100000}
  - {tenant_id: asleep, status: suspended}
"""


PEAK_MB = dict.fromkeys(("gate", "dispatcher", "worker", "settle", "sinks"), 200.0)
"""The most a process of each stage may take, whatever is sent: the contract's first bar. Idle they have about 80 MB;
a batch of each partition is unpacked in turn (16 MiB), the gate holds what is under way, the sinks a batch of rows of
each table."""


def over_bounds(peaks_mb: Mapping[str, float]) -> list[str]:
    """The stages that took more than they may; one without a bound took more than it may."""
    bounds = {stage: PEAK_MB.get(stage, 0.0) for stage in peaks_mb}
    return [
        f"{stage} took {mb:.0f} MB, it may take {bounds[stage]:.0f}"
        for stage, mb in peaks_mb.items()
        if mb > bounds[stage]
    ]


@dataclass(frozen=True)
class Processes:
    """The stages of a chain: which run, how much memory each has ever had, what they say of themselves."""

    pids: dict[str, int]
    metrics: dict[str, str]

    @classmethod
    def of(cls, chain: Chain) -> Processes:
        """As ``fairlane status`` tells them."""
        stages = chain.status()["stages"]
        named = [(f"{row['stage']}-{number}", row) for number, row in enumerate(stages)]
        return cls({n: row["pid"] for n, row in named}, {n: row["metrics"] for n, row in named})

    def forget_peaks(self) -> None:
        """Let the kernel count each one's peak from now on (proc(5), ``clear_refs``)."""
        for pid in self.pids.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")

    def peaks_mb(self) -> dict[str, float]:
        """The largest resident memory a process of each stage has had since then."""
        found: dict[str, float] = {}
        for name, pid in self.pids.items():
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            stage = name.rpartition("-")[0]
            found[stage] = max(found.get(stage, 0.0), int(line.split()[1]) / 1024)
        return found

    def leaks(self, state_dir: Path) -> Iterator[str]:
        """Logs and metrics with a secret of the corpus in them."""
        for log in (state_dir / "logs").glob("*.log"):
            if _has_canary(log.read_bytes()):
                yield f"log {log.name}"
        for name, url in self.metrics.items():
            with urllib.request.urlopen(url) as answer:
                if _has_canary(answer.read()):
                    yield f"metrics of {name}"


def _has_canary(text: bytes) -> bool:
    return any(canary in text for canary in CANARIES)


def apply_tenants(chain: Chain) -> None:
    """The oracle's tenants."""
    file = chain.state_dir / "bad-input-tenants.yaml"
    file.write_text(TENANTS)
    chain.run("tenants", "apply", "-f", str(file))


async def wait_for_tenants(wire: Wire) -> None:
    """Until the gate knows the last of the oracle's tenants."""
    rng = random.Random(os.urandom(8))
    async with asyncio.timeout(ANSWER_S):
        while True:
            made = value(rng, tenant_id="asleep", request_id=(request := new_id(rng)))
            await wire.send(Input(made), 0)
            ids = ("asleep", request)

            def answered(ids: tuple[str, str] = ids) -> bool:
                return ids in wire.seen.results

            if not await wire.until(answered, ANSWER_S):
                raise AssertionError("the gate does not answer")
            if wire.seen.results[ids][0]["error"]["code"] == "tenant_suspended":
                return
