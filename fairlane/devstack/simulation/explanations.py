"""What the log says about why things went as they did: each step is told of, and once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from fairlane.devstack.simulation.books import Books
from fairlane.devstack.simulation.facts import Entry, Facts

TOGETHER_S = 0.3
"""A decision and what it tells of are written at once, and no write takes longer that nothing hits."""


def unexplained(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """Every request has a decision of the gate, and everything that left its lane one of a dispatcher.

    None is told again but by a record that came late, or where a fault kept what it tells of from the log: then that
    is done again.
    """
    effects = (*facts.dispatches, *facts.lanes, *facts.results, *facts.dead_letters)
    done_s: dict[str, float] = {}
    for entry in effects:
        done_s[entry.made_from] = min(done_s.get(entry.made_from, entry.at_s), entry.at_s)
    told: dict[str, list[Entry]] = defaultdict(list)
    for decision in facts.decisions:
        told[decision.document["decision_id"]].append(decision)
    for name, entries in told.items():
        first = entries[0]
        if len(entries) - 1 <= sum(entry.late for entry in entries):
            continue
        told_alone = done_s.get(first.made_from, float("inf")) - first.at_s > TOGETHER_S
        if not books.disturbances or not told_alone or first.document["kind"] in ("duplicate", "joined"):
            yield f"decision {name} is told {len(entries)} times: " + ", ".join(
                f"{entry.source} at {entry.at_s:.3f}" for entry in entries
            )
    explained = {(decision.made_from, decision.document["stage"]) for decision in facts.decisions}
    for asked in facts.asked_entries:
        if (asked.source, "gate") not in explained:
            yield f"{asked.source} has no decision of the gate"
    for lane in facts.lanes:
        if lane.source in done_s and (lane.source, "dispatcher") not in explained:
            yield f"{lane.source} left its lane without a decision"
