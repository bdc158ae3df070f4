"""What takeovers of pools cost: how long nobody dispatched, whether slots were lost, and the gap between tenants.

The bound on the gap is invariant 5, after the scheduler's paper (Sheng et al., OSDI 2024,
https://arxiv.org/abs/2401.00588): between two tenants that both wait, service divided by weight differs by at most
2E/min(w), E being the cost of the largest request, plus the errors of the estimates for what was in flight when each
was dispatched or began to wait, in that time and the last time before it (``devstack/simulation/fairness.py`` says
why). Here each of them counts as the largest of them, for the least weight of all. It is taken over stretches in which
both wait, and a takeover does not end a stretch.

What a dispatch was charged is known from the dispatcher alone, who must not excuse itself by it: a charge counts for
no more than its request can come to.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from fairlane.devstack.simulation.measures import Limits
from tests.chaos.log_observer import CHARGE, Seen

SEEN_S = 1.0
"""A lane record this old is known to whoever owns the pool and is not taking it over at the moment."""

Log = Mapping[str, Sequence[Seen]]


class Service(NamedTuple):
    """A dispatch: what it got in the end, and by how much the estimate was wrong. Units of the scheduler."""

    at_s: float
    tenant: str
    lane_at_s: float
    units: float
    error: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The widest difference between two tenants, and the bound there."""

    width: float
    bound: float
    pair: tuple[str, str]


class Takeover(NamedTuple):
    """The first dispatch of a new owner, and how long after the last one of the old owner that was."""

    at_s: float
    gap_s: float


def takeovers(log: Log, pool: str) -> list[Takeover]:
    """Every change of a pool's owner, by the epochs of its dispatches."""
    found = []
    epoch, last_s = 0, 0.0
    for seen in valid_inbox(log[f"inbox.{pool}"]):
        if _epoch(seen) > epoch:
            if epoch:
                found.append(Takeover(seen.at_s, seen.at_s - last_s))
            epoch = _epoch(seen)
        last_s = seen.at_s
    return found


def valid_inbox(inbox: Sequence[Seen]) -> list[Seen]:
    """Records that count: with a value, and with no higher epoch before them in their partition."""
    highest: dict[int, int] = defaultdict(int)
    valid = []
    for seen in sorted(inbox, key=lambda one: (one.partition, one.offset)):
        epoch = _epoch(seen)
        if epoch >= highest[seen.partition]:
            highest[seen.partition] = epoch
            if seen.document:
                valid.append(seen)
    return sorted(valid, key=lambda one: one.at_s)


def busiest(log: Log, pool: str, begin_s: float, end_s: float) -> int:
    """The most requests of a pool that were in flight at once in that time: dispatched, without a terminal."""
    events = [(seen.at_s, 1, seen.key) for seen in valid_inbox(log[f"inbox.{pool}"])]
    # At the same millisecond the end comes first: it is what made room.
    events += [(seen.at_s, 0, seen.key) for seen in log["results"]]
    busy: set[str] = set()
    most = 0
    for at_s, begins, key in sorted(events):
        if begins:
            busy.add(key)
        else:
            busy.discard(key)
        if begin_s <= at_s < end_s:
            most = max(most, len(busy))
    return most


def widest_gap(log: Log, pool: str, weights: Mapping[str, float], slots: int) -> Gap | None:
    """The gap that comes nearest to its bound, or goes furthest beyond; None where no two tenants waited."""
    services = _services(log, pool)
    if not services:
        return None
    largest = max(service.units + service.error for service in services)
    worst: Gap | None = None
    for one, other in combinations(sorted(weights), 2):
        least = min(weights[one], weights[other])
        for width, stretch in _gaps(services, one, other, weights, slots):
            error = max(service.error for service in stretch)
            bound = 2 * largest / least + 2 * slots * error / min(weights.values())
            if worst is None or width / bound > worst.width / worst.bound:
                worst = Gap(width, bound, (one, other))
    return worst


def _services(log: Log, pool: str) -> list[Service]:
    lanes = {seen.place: seen for seen in log[f"lanes.{pool}"]}
    used = {seen.key: _used(seen) for seen in log["results"] if "fairlane-slot" in seen.headers}
    charged = {
        seen.made_from: float(seen.document["attributes"]["charged_units"])
        for seen in log["decisions"]
        if seen.document.get("kind") == "dispatched" and "charged_units" in seen.document["attributes"]
    }
    limits = {seen.place: seen.document[CHARGE] for seen in log["requests"] if CHARGE in seen.document}
    services = []
    for seen in valid_inbox(log[f"inbox.{pool}"]):
        lane, units = lanes[seen.made_from], used.get(seen.key, 0.0)
        possible = _possible(charged.get(seen.made_from), limits.get(lane.made_from))
        error = abs(possible - units) if possible is not None else 0.0
        services.append(Service(seen.at_s, str(seen.document["tenant_id"]), lane.at_s, units, error))
    return services


def _possible(charged: float | None, limits: Limits | None) -> float | None:
    """A charge, or the nearest that its request may have; None where either is not known, which excuses nothing."""
    if charged is None or limits is None:
        return None
    return min(limits.most, max(limits.least, charged))


def _gaps(
    services: list[Service], one: str, other: str, weights: Mapping[str, float], slots: int
) -> Iterator[tuple[float, list[Service]]]:
    waiting: dict[str, list[Service]] = defaultdict(list)
    for service in services:
        waiting[service.tenant].append(service)
    left = dict.fromkeys((one, other), 0)
    moved = {name: _begins_at(services, waiting[name]) for name in left}
    difference = lowest = highest = 0.0
    begin, both = 0, False
    for place, service in enumerate(services):
        before = both
        both = all(
            left[name] < len(waiting[name]) and waiting[name][left[name]].lane_at_s < service.at_s - SEEN_S
            for name in (one, other)
        )
        if not both:
            difference = lowest = highest = 0.0
        elif not before:
            begin = min(moved.values())
        if service.tenant in left:
            left[service.tenant] += 1
            moved[service.tenant] = place
            if both:
                share = service.units / weights[service.tenant]
                difference += share if service.tenant == one else -share
                lowest, highest = min(lowest, difference), max(highest, difference)
                yield highest - lowest, services[max(0, begin - slots) : place + 1]


def _begins_at(services: list[Service], own: list[Service]) -> int:
    """How many were dispatched before the first of a tenant came: it was lifted to what those were charged."""
    return sum(service.at_s < own[0].lane_at_s for service in services) if own else 0


def _used(result: Seen) -> float:
    """Input tokens and twice the output tokens: the scheduler's unit of service."""
    _, _, input_tokens, output_tokens = result.headers["fairlane-slot"].rsplit("/", 3)
    return int(input_tokens) + 2 * int(output_tokens)


def _epoch(seen: Seen) -> int:
    return int(json.loads(seen.headers["fairlane-dispatch"])["epoch"])
