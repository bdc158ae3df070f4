"""Many seeds over several processes, and the smallest schedule with which a seed still fails."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

from fairlane.devstack.simulation.mutations import Mutation, switched_on
from fairlane.devstack.simulation.run import Outcome, Plan, plan, quiet, simulate

CHUNK = 25
"""Seeds a process takes at once."""
SHRINK_RUNS = 400
"""Runs that a shrinking may take."""
SUCCESS_FLOOR = 0.9
"""Of the good requests of many seeds at least this share must succeed; 96 to 98 % do. Each failure has a cause in its
world (``outcomes.py``), but a chain that made its causes itself would prove nothing."""
FLOOR_SEEDS = 100
"""From so many seeds on the share means something."""


@dataclass(slots=True)
class Tally:
    """Seeds that ran, with their figures and those that failed."""

    seeds: int = 0
    figures: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    failed: list[Outcome] = field(default_factory=list)

    @property
    def success_share(self) -> float:
        """Of the good requests, the share that succeeded."""
        return self.figures["good_succeeded"] / max(1, self.figures["good"])

    @property
    def proves_too_little(self) -> bool:
        """Whether less succeeded than :data:`SUCCESS_FLOOR`, over seeds enough to say so."""
        return self.seeds >= FLOOR_SEEDS and self.success_share < SUCCESS_FLOOR

    def add(self, other: Tally) -> None:
        """Count these too."""
        self.seeds += other.seeds
        self.figures += other.figures
        self.virtual_s += other.virtual_s
        self.failed += other.failed


def run_seeds(first: int, count: int, processes: int = 2) -> Iterator[Tally]:
    """Run ``count`` seeds from ``first`` on; yields the tally of each chunk as it is done, in order."""
    chunks = [(start, min(CHUNK, first + count - start)) for start in range(first, first + count, CHUNK)]
    if processes <= 1 or len(chunks) == 1:
        yield from map(_chunk, chunks)
        return
    # A fresh interpreter each: a fork would copy whatever threads and loops the caller has.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_interrupts_to_the_caller) as pool:
        waiting = iter(chunks)
        under_way: list[Future[Tally]] = [pool.submit(_chunk, chunk) for chunk in islice(waiting, processes * 2)]
        try:
            while under_way:
                yield under_way.pop(0).result()
                under_way += [pool.submit(_chunk, chunk) for chunk in islice(waiting, 1)]
        finally:
            for left in under_way:
                left.cancel()


def _leave_interrupts_to_the_caller() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _chunk(chunk: tuple[int, int]) -> Tally:
    tally = Tally()
    with quiet(), _one_collection():
        for seed in range(chunk[0], chunk[0] + chunk[1]):
            outcome = simulate(plan(seed), fingerprint=False)
            tally.seeds += 1
            tally.figures += outcome.figures
            tally.virtual_s += outcome.virtual_s
            if outcome.violations:
                tally.failed.append(outcome)
    return tally


@contextmanager
def _one_collection() -> Iterator[None]:
    """Garbage is collected once, at the end, and what was there before is left out of it."""
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        if collecting:
            gc.enable()


def shrink(todo: Plan, tried: Callable[[int], None] = lambda _: None) -> Plan:
    """The plan with as few faults and requests as still break the same promise; ``tried`` counts the runs."""
    broken = rules(simulate(todo))
    runs = 0

    def fails(smaller: Plan) -> bool:
        nonlocal runs
        runs += 1
        tried(1)
        return runs <= SHRINK_RUNS and bool(rules(simulate(smaller)) & broken)

    def with_faults(kept: Sequence[int]) -> Plan:
        return replace(todo, faults=tuple(todo.faults[place] for place in kept))

    todo = with_faults(_fewest(range(len(todo.faults)), lambda kept: fails(with_faults(kept))))

    def with_arrivals(kept: Sequence[int]) -> Plan:
        return replace(todo, arrivals=tuple(todo.arrivals[place] for place in kept))

    return with_arrivals(_fewest(range(len(todo.arrivals)), lambda kept: fails(with_arrivals(kept))))


def _fewest(items: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> Sequence[int]:
    """Delta debugging (Zeller and Hildebrandt, IEEE TSE 28(2), 2002) with complements only."""
    kept = list(items)
    size = max(1, len(kept) // 2)
    while kept:
        start, removed = 0, False
        while start < len(kept):
            smaller = kept[:start] + kept[start + size :]
            if fails(smaller):
                kept, removed = smaller, True
            else:
                start += size
        if size == 1 and not removed:
            break
        size = max(1, size // 2)
    return kept


def rules(outcome: Outcome) -> frozenset[str]:
    """The promises that were broken."""
    return frozenset(violation.split(":", 1)[0] for violation in outcome.violations)


@dataclass(frozen=True, slots=True)
class Caught:
    """The first seed that finds a mutation and what it breaks; None where none of those tried does."""

    mutation: Mutation
    seed: int | None
    broken: tuple[str, ...] = ()


def catch(mutation: Mutation, first: int, count: int) -> Caught:
    """Run seeds until one finds the mutation: it keeps every promise without, and breaks one with it."""
    for seed in range(first, first + count):
        with switched_on(mutation):
            broken = rules(simulate(plan(seed)))
        if broken and not simulate(plan(seed)).violations:
            return Caught(mutation, seed, tuple(sorted(broken)))
    return Caught(mutation, None)
