"""Judges of what may wait and what may go: caps, cancellations, deadlines and priorities.

What a dispatcher must have seen is judged where nothing kept it from seeing; what it must know from the log when it
takes a pool over, and what a worker must know from the record itself, in every run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from fairlane.devstack.simulation.books import Books
from fairlane.devstack.simulation.facts import Entry, Facts, dispatch_of
from fairlane.devstack.simulation.fairness import SEEN_S
from fairlane.devstack.simulation.outcomes import ROUNDED_S, deadline_s
from fairlane.devstack.simulation.provider_twin import Called

BANDS = ("critical", "high", "normal", "low", "batch")


def caps_exceeded(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """No tenant has more in its lanes than its cap.

    A request counts from its lane record until it stands in an inbox, even of a dispatcher that had lost the pool (it
    may have told the store), or is answered: the store counts it for longer. What was on its way into its lane when
    the store was emptied is not counted: nobody can know of it.
    """
    if len(facts.lanes) <= books.cap:
        return
    entered: dict[int, Entry] = {}
    left: dict[int, str] = {entry.place: entry.key for entry in (*facts.inbox, *facts.results) if entry.document}
    for lane in facts.lanes:
        asked = facts.asked_at.get(lane.made_from)
        if asked is None or not books.store_emptied(asked.entry.at_s, lane.at_s):
            entered[lane.place] = lane
    gone, waiting = set[str](), defaultdict[str, set[str]](set)
    for place in sorted({*entered, *left}):
        if place in left:
            key = left[place]
            gone.add(key)
            waiting[key.partition("/")[0]].discard(key)
            continue
        lane, tenant = entered[place], entered[place].document["tenant_id"]
        if lane.key not in gone:
            waiting[tenant].add(lane.key)
        if len(waiting[tenant]) > books.cap:
            yield f"{tenant} had {len(waiting[tenant])} in its lanes at {lane.at_s:.3f}, and may have {books.cap}"
            return


def cancels_ignored(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """Nobody dispatches what he must know to be cancelled.

    Who takes a pool over reads the commands there are behind its markers; who has it follows them.
    """
    if not facts.cancels:
        return
    began: dict[int, Entry] = {}
    for entry in facts.inbox:
        began.setdefault(dispatch_of(entry)["epoch"], entry)
    for entry in facts.dispatches:
        for command in facts.cancels.get(entry.key, ()):
            taken_over = began[dispatch_of(entry)["epoch"]]
            if taken_over.place > command.place:
                yield f"{entry.key} was dispatched by one who took over at {taken_over.at_s:.3f}, cancelled before"
            elif books.scheduling_undisturbed and entry.at_s > command.at_s + SEEN_S:
                yield f"{entry.key} was dispatched {entry.at_s - command.at_s:.3f} s after its cancellation"


def deadlines_ignored(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """Nothing waits, is called or is answered beyond its deadline, by the clock of who does it."""
    ends = {lane.key: deadline_s(asked) for lane in facts.lanes if (asked := facts.asked_at.get(lane.made_from))}
    last_s = max((entry.at_s for entry in facts.results), default=0.0)
    hurried = {key: end_s for key, end_s in ends.items() if end_s < last_s}
    if not hurried:
        return
    calls: dict[tuple[str, str], list[Called]] = defaultdict(list)
    for call in books.calls:
        calls[call.request, call.caller].append(call)
        late_s = call.at_s - hurried.get(call.request, call.at_s) - books.behind_s(call.caller)
        if late_s > ROUNDED_S:
            yield f"{call.request} was called by {call.caller} at {call.at_s:.3f}, {late_s:.3f} s beyond its deadline"
    if books.scheduling_undisturbed:
        for entry in facts.dispatches:
            late_s = entry.at_s - hurried.get(entry.key, entry.at_s)
            if late_s > SEEN_S:
                yield f"{entry.key} was dispatched at {entry.at_s:.3f}, {late_s:.3f} s beyond its deadline"
    for attempt in facts.attempts:
        worker = attempt.document["worker"]
        if attempt.key not in hurried or attempt.document["status"] != "succeeded" or books.stood_still(worker):
            continue
        begun_s = max((call.at_s for call in calls[attempt.key, worker] if call.at_s <= attempt.at_s), default=0.0)
        late_s = begun_s + attempt.document["model_ms"] / 1000 - hurried[attempt.key] - books.behind_s(worker)
        if late_s > ROUNDED_S:
            yield f"the answer to {attempt.key} was waited for {late_s:.3f} s beyond its deadline"


def priorities_reversed(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """Nothing is dispatched while something of a higher band waits that the dispatcher has certainly seen.

    Judged where nothing disturbed the dispatchers and their window held all there was; and not just after one took
    the pool, while it still reads what waits.
    """
    if not books.scheduling_undisturbed or len(facts.lanes) > books.window:
        return
    band_of = {lane.key: _band(facts, lane) for lane in facts.lanes}
    if len(set(band_of.values())) < 2:
        return
    taken = [entry.at_s for entry in facts.inbox if not entry.document]
    picked = {entry.key: dispatch_of(entry)["dispatched_ms"] for entry in facts.dispatches}
    for entry in facts.dispatches:
        if any(at_s <= entry.at_s < at_s + 2 * SEEN_S for at_s in taken):
            continue
        for lane in facts.lanes:
            if band_of[lane.key] < band_of[entry.key] and lane.at_s < entry.at_s - SEEN_S:
                if lane.key in picked:
                    waits = picked[lane.key] > picked[entry.key]
                else:
                    waits = entry.at_s < facts.winners[lane.key].at_s - SEEN_S if lane.key in facts.winners else True
                if waits:
                    yield (
                        f"{entry.key} ({BANDS[band_of[entry.key]]}) was dispatched at {entry.at_s:.3f} while "
                        f"{lane.key} ({BANDS[band_of[lane.key]]}) waited since {lane.at_s:.3f}"
                    )
                    return


def _band(facts: Facts, lane: Entry) -> int:
    asked = facts.asked_at.get(lane.made_from)
    return BANDS.index(str(asked.entry.document.get("priority", "normal") if asked is not None else "normal"))
