"""What two tenants that both wait may differ by, on random loads in which every estimate is wrong.

Judged with what the scheduler does not know, the usage of what is in flight. The bound and why it holds are in
``fairlane/devstack/simulation/fairness.py``; here it is exact, for nothing has to be guessed from a log.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from fairlane.policy.vtc import Charge, FairQueue, Waiting, service_cost

ROUNDING = 1e-6


@dataclass(slots=True)
class Stretch:
    """While two tenants wait: how their service differs, and the largest reach of each."""

    largest: dict[str, float]
    difference: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0


class Load:
    """Tenants that come in bursts and leave, calls in flight, and the bound of every pair."""

    def __init__(self, rng: random.Random, weights: dict[str, float]) -> None:
        self.rng, self.weights, self.queue = rng, weights, FairQueue()
        self.queue.set_weights(weights)
        self.lengths = {name: rng.choice((1, 30, 300)) for name in weights}
        self.in_flight: list[tuple[Charge, int, int]] = []
        self.pushed = 0
        self.reach = dict.fromkeys(weights, 0.0)
        """By the last move of each."""
        self.stretches: dict[tuple[str, str], Stretch] = {}

    def error(self, tenant: str, others: Collection[str]) -> float:
        """What others in flight are charged too much, and the tenant itself too little."""
        total = 0.0
        for charge, tokens, output in self.in_flight:
            excess = (charge.units - service_cost(tokens, output)) / self.weights[charge.tenant_id]
            if charge.tenant_id == tenant:
                total += max(0.0, -excess)
            elif charge.tenant_id in others:
                total += max(0.0, excess)
        return total

    def push(self) -> None:
        tenant = self.rng.choice(list(self.weights))
        for _ in range(self.rng.choice((1, 1, 3, 30))):
            self.pushed += 1
            before = self.queue.counter(tenant)
            tokens, output = self.rng.randint(1, 50), self.rng.randint(1, 2 * self.lengths[tenant])
            key = str(self.pushed).encode()
            self.queue.push(Waiting(key, tenant, "normal", "m", tokens, 10_000, self.pushed, None, output))
            if self.queue.counter(tenant) > before:
                self.reach[tenant] = self.error(tenant, self.weights)
        self._begin_and_end()

    def pick(self) -> None:
        pick = self.queue.pick()
        if pick is None:
            return
        tenant, tokens, output = pick.waiting.tenant_id, pick.waiting.input_tokens, pick.waiting.payload
        assert isinstance(output, int)
        cost = service_cost(tokens, output) / self.weights[tenant]
        self.reach[tenant] = cost + self.error(tenant, self.weights)
        for pair, stretch in self.stretches.items():
            if tenant in pair:
                stretch.difference += cost if tenant == pair[0] else -cost
                stretch.largest[tenant] = max(stretch.largest[tenant], cost + self.error(tenant, pair))
                stretch.lowest = min(stretch.lowest, stretch.difference)
                stretch.highest = max(stretch.highest, stretch.difference)
                assert stretch.highest - stretch.lowest <= sum(stretch.largest.values()) + ROUNDING
        self.in_flight.append((pick.charge, tokens, output))
        self._begin_and_end()

    def settle(self) -> None:
        self.queue.settle(*self.in_flight.pop(self.rng.randrange(len(self.in_flight))))

    def _begin_and_end(self) -> None:
        for pair in combinations(self.weights, 2):
            if not all(self.queue.waiting(name) for name in pair):
                self.stretches.pop(pair, None)
            elif pair not in self.stretches:
                self.stretches[pair] = Stretch({name: self.reach[name] for name in pair})


@given(
    seed=st.integers(0, 2**32),
    weights=st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=2, max_size=5),
    slots=st.integers(1, 12),
    bursts=st.sampled_from([0.05, 0.15, 0.3]),
)
def test_tenants_that_both_wait_differ_by_no_more_than_their_last_moves_reach(
    seed: int, weights: list[float], slots: int, bursts: float
) -> None:
    rng = random.Random(seed)
    load = Load(rng, {f"t{number}": weight for number, weight in enumerate(weights)})
    for _ in range(400):
        if rng.random() < bursts:
            load.push()
        elif len(load.in_flight) < slots:
            load.pick()
        else:
            load.settle()
