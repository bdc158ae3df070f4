"""Judges of the dispatcher in an undisturbed run: shares of those who keep waiting, and slots that stand idle.

Service is the real cost divided by the weight w. Between two tenants that both wait it differs by at most what each
may be ahead of the other, and that is decided when it *moves*: when it is dispatched, or lifted. For f at t:

    reach(f, t) = cost / w(f), if it is a dispatch
                + what others are charged too much for their calls in flight at t, by their weights
                + what f is charged too little for its calls in flight at t, by its weight

The difference is at most the largest reach of one plus the largest reach of the other, over their moves in the
stretch of time and the last ones before it. With exact estimates that is 2E/min(w), E being the cost of the largest
request, as in the scheduler's paper (Sheng et al., OSDI 2024, https://arxiv.org/abs/2401.00588, section 4).

Why: let c be a counter, and r what it will be when all in flight is settled. Settling changes c and leaves r; a
dispatch raises r by its cost / w. So service differs by as much as r(f) - r(g) moves, which is bounded from above,
and with f and g exchanged from below:

1. f is dispatched while g waits. Before it c(f) <= c(g), so r(f) <= r(g) + what g is charged too much + what f is
   charged too little; the dispatch adds its cost. Until f moves again only r(g) changes, and it never falls.
2. f moved last at t, before g began to wait or both were seen waiting. With m the least counter of those waiting at t
   (c(f) itself, before a dispatch or after a lift), r(f) <= m + what f is charged too little + its cost. And r(g) is
   never below m - what all were charged too much at t, where the part of f drops out against its r: who waits at t
   stands at m or higher, and settling lowers it by its own part of that at most, for a later charge falls back to
   its cost and not below. Who comes later is lifted to the least of those waiting, or to where the last of them
   left, to which the same applies, and then falls by its own part at most: a part it has only if it was in flight
   at t, and it is nobody else's.

So errors count of calls that ended long before the stretch: who is lifted to what another is charged too much stays
there until the others have caught up (seed 62247).

What a call was charged is known from the dispatcher alone, who must not excuse itself by it: a charge has to be
possible for its request, and counts in the bound for no more than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import combinations, groupby

from fairlane.devstack.simulation.facts import Entry, Facts, dispatch_of
from fairlane.devstack.simulation.measures import charge_units

SEEN_S = 0.25
"""After this the dispatcher has certainly seen a record, and has certainly used a slot that became free."""
ROUNDED = 0.5
"""Decisions tell charges in whole units."""


@dataclass(slots=True, eq=False)
class _Call:
    """A dispatch, in units for the tenant's weight: its cost, and what it was charged above and below that."""

    tenant: str
    lane_at_s: float
    picked_ms: int
    at_s: float
    ended_s: float
    cost: float
    excess: float
    lack: float
    beside: list[_Call] = field(default_factory=list)
    """What may have been in flight when it was dispatched, as the dispatcher knew it."""
    beside_lift: list[_Call] = field(default_factory=list)
    """The same when it came, if its tenant may have begun to wait then."""
    begins: bool = True


def unfair_shares(facts: Facts, weights: Mapping[str, float], slots: int) -> Iterator[str]:
    """Pairs of tenants whose gap is above the bound."""
    calls = _calls(facts, weights)
    for one, other in combinations(sorted(weights), 2):
        for gap, bound, at_s in _gaps(calls, (one, other), slots):
            if gap > bound:
                yield (
                    f"{one} and {other} both waited, and their service for their weights differed by {gap:.0f} "
                    f"at {at_s:.3f}; the bound is {bound:.0f}"
                )
                break


def impossible_charges(facts: Facts) -> Iterator[str]:
    """Charges below the estimated prompt, or above it with all the output that the request allows."""
    lanes = {entry.source: entry for entry in facts.lanes}
    for decision in facts.decisions:
        reported = _reported(decision)
        if reported is None:
            continue
        lane = lanes.get(decision.made_from)
        asked = facts.asked_at.get(lane.made_from) if lane is not None else None
        if asked is None:
            yield f"{decision.key} was charged for {decision.made_from}, which nobody asked"
            continue
        least, most = charge_units(asked.entry.document["body"])
        if not least <= reported <= most:
            yield f"{decision.key} was charged {reported:g} units, and can come to {least} to {most}"


def idle_slots(facts: Facts, slots: int) -> Iterator[str]:
    """Dispatches that came long after a slot was free and the request was there."""
    dispatched = {entry.place: entry for entry in facts.dispatches}
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


def _calls(facts: Facts, weights: Mapping[str, float]) -> list[_Call]:
    """Every dispatch as it was picked: on their way to the log they may overtake each other."""
    lanes = {entry.source: entry for entry in facts.lanes}
    ended = {entry.key: entry for entry in reversed(facts.results) if "fairlane-slot" in entry.headers}
    reported = {entry.made_from: charged for entry in facts.decisions if (charged := _reported(entry)) is not None}
    calls, latest = list[_Call](), dict[str, _Call]()
    for entry in sorted(facts.dispatches, key=_picked_ms):
        tenant, end = entry.document["tenant_id"], ended.get(entry.key)
        units = _used(end) if end is not None else 0.0
        charged = reported.get(entry.made_from)
        error = _possible(facts, lanes[entry.made_from], charged) - units if charged is not None else 0.0
        call = _Call(
            tenant,
            lanes[entry.made_from].at_s,
            _picked_ms(entry),
            entry.at_s,
            end.at_s if end is not None else float("inf"),
            units / weights[tenant],
            max(0.0, error + ROUNDED) / weights[tenant],
            max(0.0, ROUNDED - error) / weights[tenant],
        )
        calls.append(call)
        before = latest.get(tenant)
        call.begins = before is None or before.at_s <= call.lane_at_s + SEEN_S
        latest[tenant] = call
    for call in calls:
        earlier = [each for each in calls if each is not call and each.picked_ms <= call.picked_ms]
        call.beside = [each for each in earlier if each.ended_s >= call.at_s - SEEN_S]
        if call.begins:
            known_s, seen_s = call.lane_at_s - SEEN_S, call.lane_at_s + SEEN_S
            call.beside_lift = [each for each in earlier if each.ended_s >= known_s and each.at_s <= seen_s]
    return calls


def _reported(decision: Entry) -> float | None:
    """What a dispatcher says that it charged; None if this decision says nothing of that."""
    document = decision.document
    units = document["attributes"].get("charged_units") if document["kind"] == "dispatched" else None
    return None if units is None else float(units)


def _possible(facts: Facts, lane: Entry, charged: float) -> float:
    """A charge, or the nearest that its request may have."""
    least, most = charge_units(facts.asked_at[lane.made_from].entry.document["body"])
    return min(most, max(least, charged))


def _picked_ms(dispatched: Entry) -> int:
    return dispatch_of(dispatched)["dispatched_ms"]


def _used(result: Entry) -> float:
    """Input tokens and twice the output tokens: the scheduler's unit of service."""
    _, _, input_tokens, output_tokens = result.headers["fairlane-slot"].rsplit("/", 3)
    return int(input_tokens) + 2 * int(output_tokens)


def _gaps(calls: list[_Call], pair: tuple[str, str], slots: int) -> Iterator[tuple[float, float, float]]:
    """The widest difference so far, its bound and the time, through every stretch in which both keep waiting."""
    ahead = {name: deque(call for call in calls if call.tenant == name) for name in pair}
    others = {call.tenant for call in calls}
    reach = dict.fromkeys(pair, 0.0)
    largest: dict[str, float] = {}
    difference = lowest = highest = 0.0
    # In which order things were picked within a millisecond is not known: what counts is where it led to.
    for _, at_once in groupby(calls, key=lambda call: call.picked_ms):
        picked = list(at_once)
        if not _all_wait(ahead.values(), picked[0].at_s):
            largest = {}
        elif not largest:
            difference = lowest = highest = 0.0
            largest = {name: max(reach[name], _error(ahead[name][0].beside_lift, name, others, slots)) for name in pair}
        for name, sign in zip(pair, (1, -1), strict=True):
            moves = [ahead[name].popleft() for call in picked if call.tenant == name]
            difference += sign * sum(call.cost for call in moves)
            if moves:
                reach[name] = max(call.cost + _error(call.beside, name, others, slots) for call in moves)
            if moves and largest:
                now = max(call.cost + _error(call.beside, name, pair, slots) for call in moves)
                largest[name] = max(largest[name], now)
        if len(picked) > 1 and not _all_wait(ahead.values(), picked[0].at_s):
            largest = {}
        if largest:
            lowest, highest = min(lowest, difference), max(highest, difference)
            yield highest - lowest, sum(largest.values()), picked[-1].at_s


def _all_wait(ahead: Iterable[deque[_Call]], at_s: float) -> bool:
    return all(calls and calls[0].lane_at_s < at_s - SEEN_S for calls in ahead)


def _error(beside: list[_Call], tenant: str, others: Collection[str], slots: int) -> float:
    """What others in flight are charged too much, and the tenant itself too little; of no more calls than slots."""
    own = (call.lack for call in beside if call.tenant == tenant)
    theirs = (call.excess for call in beside if call.tenant != tenant and call.tenant in others)
    return sum(nlargest(slots, [*own, *theirs]))
