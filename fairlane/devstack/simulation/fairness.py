"""Judges of the dispatcher in an undisturbed run: shares of those who keep waiting, and slots that stand idle.

The bound is that of the scheduler's paper (Sheng et al., OSDI 2024, https://arxiv.org/abs/2401.00588): between
two tenants that both wait, service divided by weight differs by at most 2E/min(w), E being the cost of
the largest request, plus the error of the estimates for what is in flight at either end. That error
counts for the least weight of all: who begins to wait is lifted to what another, lighter one is charged.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

from fairlane.devstack.simulation.facts import Entry, Facts, valid_inbox

SEEN_S = 0.25
"""After this the dispatcher has certainly seen a record, and has certainly used a slot that became free."""


class _Service(NamedTuple):
    at_s: float
    tenant: str
    lane_at_s: float
    units: float
    error: float


def unfair_shares(facts: Facts, weights: Mapping[str, float], slots: int) -> Iterator[str]:
    """Pairs of tenants whose gap is above the bound."""
    services = _services(facts)
    if not services:
        return
    largest = max(service.units + service.error for service in services)
    for one, other in combinations(sorted(weights), 2):
        least = min(weights[one], weights[other])
        for gap, at_s, stretch in _gaps(services, one, other, weights, slots):
            error = max(service.error for service in stretch)
            bound = 2 * largest / least + 2 * slots * error / min(weights.values())
            if gap > bound:
                yield (
                    f"{one} and {other} both waited, and their service for their weights differed by {gap:.0f} "
                    f"at {at_s:.3f}; the bound is {bound:.0f}"
                )
                break


def idle_slots(facts: Facts, slots: int) -> Iterator[str]:
    """Dispatches that came long after a slot was free and the request was there."""
    dispatched = {entry.place: entry for entry in valid_inbox(facts)}
    ended = {entry.place: entry for entry in facts.results if "fairlane-slot" in entry.headers}
    lanes = {entry.source: entry for entry in facts.lanes}
    busy: set[str] = set()
    free_since = 0.0
    for place in sorted({*dispatched, *ended}):
        if place in ended:
            if len(busy) >= slots:
                free_since = ended[place].at_s
            busy.discard(ended[place].key)
            continue
        entry = dispatched[place]
        since = max(free_since, lanes[entry.made_from].at_s)
        if entry.at_s - since > SEEN_S:
            yield f"{entry.key} waited {entry.at_s - since:.3f} s beside a free slot, until {entry.at_s:.3f}"
        busy.add(entry.key)


def _services(facts: Facts) -> list[_Service]:
    lanes = {entry.source: entry for entry in facts.lanes}
    used = {entry.key: _used(entry) for entry in facts.results if "fairlane-slot" in entry.headers}
    charged = {
        entry.made_from: float(entry.document["attributes"]["charged_units"])
        for entry in facts.decisions
        if entry.document["kind"] == "dispatched" and "charged_units" in entry.document["attributes"]
    }
    services = []
    # As they were picked: on their way to the log they may overtake each other.
    for entry in sorted(valid_inbox(facts), key=_picked_ms):
        units = used.get(entry.key, 0.0)
        error = abs(charged.get(entry.made_from, units) - units)
        tenant = entry.document["tenant_id"]
        services.append(_Service(entry.at_s, tenant, lanes[entry.made_from].at_s, units, error))
    return services


def _picked_ms(dispatched: Entry) -> int:
    return int(json.loads(dispatched.headers["fairlane-dispatch"])["dispatched_ms"])


def _used(result: Entry) -> float:
    """Input tokens and twice the output tokens: the scheduler's unit of service."""
    _, _, input_tokens, output_tokens = result.headers["fairlane-slot"].rsplit("/", 3)
    return int(input_tokens) + 2 * int(output_tokens)


def _gaps(
    services: list[_Service], one: str, other: str, weights: Mapping[str, float], slots: int
) -> Iterator[tuple[float, float, list[_Service]]]:
    """The widest difference so far, at each dispatch of a stretch of time in which both keep waiting.

    With it goes what was dispatched in the stretch, and what may have been in flight when it began.
    """
    waiting: dict[str, list[_Service]] = defaultdict(list)
    for service in services:
        waiting[service.tenant].append(service)
    left = dict.fromkeys((one, other), 0)
    difference = lowest = highest = 0.0
    begin = 0
    for place, service in enumerate(services):
        both = all(
            left[name] < len(waiting[name]) and waiting[name][left[name]].lane_at_s < service.at_s - SEEN_S
            for name in (one, other)
        )
        if not both:
            difference = lowest = highest = 0.0
            begin = place + 1
        if service.tenant in left:
            left[service.tenant] += 1
            if both:
                share = service.units / weights[service.tenant]
                difference += share if service.tenant == one else -share
                lowest, highest = min(lowest, difference), max(highest, difference)
                yield highest - lowest, service.at_s, services[max(0, begin - slots) : place + 1]
