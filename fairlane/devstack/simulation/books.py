"""What the checker is given beside the log: figures of the twins, and how the world of the run was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fairlane.devstack.simulation.provider_twin import Called
from fairlane.ports import TenantUsage


class Disturbance(NamedTuple):
    """A fault of the plan; what ``amount`` means depends on the kind."""

    at_s: float
    kind: str
    target: str
    amount: float


class Prices(NamedTuple):
    """Dollars a million tokens, as the catalog of the world has them."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Books:
    """See the module."""

    usage: Mapping[str, TenantUsage]
    calls: Sequence[Called]
    tables: Mapping[str, Sequence[Mapping[str, object]]] | None
    """Rows by table; None where no sink ran."""
    slots: int
    groups: int
    """Partitions of the inbox: each is a group with its share of the slots."""
    tenants: frozenset[str]
    prices: Prices
    cap: int
    """How many undispatched requests each tenant may have."""
    window: int
    """How many unfinished records of a partition a stage reads."""
    disturbances: Sequence[Disturbance] = ()
    weights: Mapping[str, float] | None = None
    """Weights by tenant; None where not all tenants kept waiting, so that shares cannot be judged."""

    @property
    def scheduling_undisturbed(self) -> bool:
        """Whether the dispatchers ran through, and saw at once what was in the log."""
        return all(
            fault.kind.startswith(("provider-", "store-", "tables-"))
            or (fault.target.startswith(("gate", "worker", "settle", "sinks")) and fault.kind != "crash-all")
            for fault in self.disturbances
        )

    def store_emptied(self, since_s: float, until_s: float) -> bool:
        """Whether the admission store lost everything in that time."""
        return any(fault.kind == "store-empty" and since_s <= fault.at_s <= until_s for fault in self.disturbances)

    def ahead_s(self) -> float:
        """How far the fastest clock of a process was ever ahead."""
        return max(0.0, *(fault.amount for fault in self.disturbances if fault.kind == "clock"), 0.0)

    def gate_clocks(self, until_s: float) -> Sequence[float]:
        """How far clocks of gates had been set off until then."""
        return [
            fault.amount
            for fault in self.disturbances
            if fault.kind == "clock" and fault.target.startswith("gate") and fault.at_s <= until_s
        ]

    def behind_s(self, process: str) -> float:
        """How far the clock of this process was ever behind."""
        steps = (fault.amount for fault in self.disturbances if fault.kind == "clock" and fault.target == process)
        return max(0.0, -min(steps, default=0.0))

    def stood_still(self, process: str) -> bool:
        """Whether this process was ever stopped for a while."""
        return any(fault.kind.startswith("freeze") and fault.target == process for fault in self.disturbances)
