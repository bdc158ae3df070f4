"""The ledger checker: reads the log, the store's figures and the tables, and says which promise was broken.

It is written apart from the stages and shares nothing with them but the names of the contracts. A
result beyond the first of its request is a *raw duplicate*. None is allowed, with one exception, counted
one by one: a record that stayed in a process which was stopped past its lease, and left it when the process went on.
Nobody can stop such a record. If it is a result it loses against the first one; if it is a lane record it
leads to a second result, which loses. Both are counted in ``forgiven``; money is booked once all the same.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fairlane.devstack.simulation.bills import money_that_does_not_add_up, wrong_prices
from fairlane.devstack.simulation.books import Books
from fairlane.devstack.simulation.commit_metadata import finished_beyond
from fairlane.devstack.simulation.explanations import unexplained
from fairlane.devstack.simulation.facts import Asked, Entry, Facts, by_source
from fairlane.devstack.simulation.fairness import idle_slots, impossible_charges, unfair_shares
from fairlane.devstack.simulation.outcomes import wrong_outcomes
from fairlane.devstack.simulation.waiting import (
    cancels_ignored,
    caps_exceeded,
    deadlines_ignored,
    priorities_reversed,
)


@dataclass(slots=True)
class Findings:
    """What is wrong, as ``rule: detail``; and figures of a run, for those who judge many."""

    violations: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)


def check(facts: Facts, books: Books) -> Findings:
    """Verify every rule."""
    findings = Findings()
    for name, rule in (
        ("terminal", _each_record_ends_once),
        ("duplicate", _no_raw_duplicates),
        ("money", money_that_does_not_add_up),
        ("price", wrong_prices),
        ("answer", _answers_fit_their_requests),
        ("key", _one_answer_per_idempotency_key),
        ("commit", _commits_follow_effects),
        ("slots", _slots_are_not_exceeded),
        ("calls", _calls_are_accounted_for),
        ("attempt", _attempts_are_what_was_called),
        ("decision", unexplained),
        ("tables", _tables_are_the_log),
        ("success", wrong_outcomes),
        ("cap", caps_exceeded),
        ("cancel", cancels_ignored),
        ("deadline", deadlines_ignored),
        ("priority", priorities_reversed),
        ("charge", _charges_are_possible),
        ("fairness", _shares_are_fair),
        ("idle", _no_slot_idles),
    ):
        findings.violations += [f"{name}: {detail}" for detail in rule(facts, books, findings.figures)]
    return findings


def _each_record_ends_once(facts: Facts, books: Books, figures: Counter[str]) -> Iterator[str]:
    letters = by_source(facts.dead_letters)
    results, lanes = by_source(facts.results), by_source(facts.lanes)
    bodies: dict[str, set[str]] = defaultdict(set)
    for asked in facts.asked:
        source = asked.entry.source
        found = letters.get(source, [])
        figures["requests"] += 1
        figures["dead_letters"] += len(found)
        if len(found) - 1 > sum(entry.late for entry in found):
            yield f"{source} has {len(found)} dead letters"
        if found:
            if results.get(source) or lanes.get(source):
                yield f"{source} has a dead letter and yet a lane record or result"
        elif not asked.name:
            yield f"{source} names no request and has no dead letter"
        elif asked.name not in facts.results_of:
            yield f"{source} ({asked.name}) has no terminal"
        else:
            bodies[asked.name].add(asked.body)
    unknown = _admissions_nobody_knew_of(facts, books)
    for name, different in bodies.items():
        if len(different) - 1 > unknown[name]:
            yield f"{name} was asked with {len(different)} bodies, and none of them was refused"
    known = {asked.name for asked in facts.asked}
    for key in facts.results_of:
        if key not in known:
            yield f"{key} has a result and was never asked"


def _no_raw_duplicates(facts: Facts, _books: Books, figures: Counter[str]) -> Iterator[str]:
    requests, late = {asked.entry.source for asked in facts.asked}, facts.late_keys
    for key, entries in facts.results_of.items():
        figures["results"] += len(entries)
        # Asking again under the same id is answered again; every other result is the one terminal.
        terminals = [e for e in entries if not (e.document["replayed"] and e.made_from in requests)]
        sources = Counter(entry.made_from for entry in entries)
        excess = len(terminals) - 1 if len(terminals) > 1 else 0
        excess = max(excess, sum(count - 1 for count in sources.values()))
        if not excess:
            continue
        if excess <= late.get(key, 0):
            figures["forgiven"] += excess
        else:
            yield f"{key} has {excess + 1} terminals: " + ", ".join(
                f"{e.source} from {e.made_from} at {e.at_s:.3f}" for e in entries
            )


def _answers_fit_their_requests(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    asked_of: dict[str, list[Asked]] = defaultdict(list)
    for asked in facts.asked:
        asked_of[asked.name].append(asked)
    refused, unknown = {letter.made_from for letter in facts.dead_letters}, _admissions_nobody_knew_of(facts, books)
    for key, winner in facts.winners.items():
        if winner.document["status"] != "succeeded":
            continue
        text = winner.document["response"]["text"]
        bodies = {asked.body for asked in asked_of[key] if asked.entry.source not in refused}
        others = sum(json.dumps(text) not in body for body in bodies)
        if others > unknown[key] or (bodies and others == len(bodies)):
            yield f"{key} was answered with {text!r}, which is the answer to something else"


def _admissions_nobody_knew_of(facts: Facts, books: Books) -> Counter[str]:
    """By request how many lane records came late, the store having been emptied since the request came: it was filled
    from a log without them, so the same id with another body is a new request.
    """
    return Counter(
        lane.key
        for lane in facts.lanes
        if lane.late
        and (asked := facts.asked_at.get(lane.made_from)) is not None
        and books.store_emptied(asked.entry.at_s, lane.at_s)
    )


def _one_answer_per_idempotency_key(facts: Facts, _books: Books, _figures: Counter[str]) -> Iterator[str]:
    first: dict[tuple[str, str], str] = {}
    for key, winner in facts.winners.items():
        document = winner.document
        if document["status"] == "succeeded" and not document["replayed"]:
            name = (document["tenant_id"], document["idempotency_key"])
            if name in first:
                yield f"{first[name]} and {key} were both called and billed under one idempotency key"
            first[name] = key


def _commits_follow_effects(facts: Facts, _books: Books, figures: Counter[str]) -> Iterator[str]:
    done = {
        "requests": _finished_at(facts.asked_entries, (facts.lanes, facts.results, facts.dead_letters, _ends(facts))),
        "lanes": _finished_at(facts.lanes, (facts.dispatches, facts.results)),
        "inbox": _finished_at(facts.inbox, (facts.results, facts.dead_letters)),
    }
    _without_effect(facts, done)
    for place, commit in facts.commits:
        for tp, position in commit.positions.items():
            figures["commits"] += 1
            kind = tp.topic.split(".")[1]
            if kind not in done or commit.group.endswith("sinks"):
                continue
            try:
                ahead = finished_beyond(position.offset, position.metadata)
            except ValueError as unreadable:
                yield f"{commit.member} committed {position.metadata!r} on {tp.topic}/{tp.partition}: {unreadable}"
                continue
            for offset, finished in done[kind].get(tp.partition, {}).items():
                if (offset < position.offset or offset in ahead) and finished > place:
                    yield (
                        f"{commit.member} committed {tp.topic}/{tp.partition}/{offset} as done "
                        f"(position {position.offset}) at {commit.at_s:.3f} without its effect in the log"
                    )


def _ends(facts: Facts) -> list[Entry]:
    """Decisions that say that a record needs nothing more: another record answers it."""
    return [entry for entry in facts.decisions if entry.document["kind"] in ("duplicate", "joined")]


Finished = dict[int, dict[int, float]]
"""By partition and offset the place at which the effect was in the log; infinity if never."""


def _finished_at(entries: Iterable[Entry], effects: Iterable[Iterable[Entry]]) -> Finished:
    first: dict[str, int] = {}
    for group in effects:
        for effect in group:
            first[effect.made_from] = min(first.get(effect.made_from, effect.place), effect.place)
    finished: Finished = defaultdict(dict)
    for entry in entries:
        finished[entry.partition][entry.offset] = first.get(entry.source, float("inf"))
    return finished


def _without_effect(facts: Facts, done: Mapping[str, Finished]) -> None:
    """Some records need no effect of their own: markers, void ones, and a lane record written twice."""
    valid = {entry.source for entry in facts.dispatches}
    for entry in facts.inbox:
        if entry.source not in valid:
            done["inbox"][entry.partition][entry.offset] = -1
    twice, late = Counter(entry.key for entry in facts.lanes), facts.late_keys
    for entry in facts.lanes:
        if twice[entry.key] > 1 and entry.key in late:
            done["lanes"][entry.partition][entry.offset] = -1


def _slots_are_not_exceeded(facts: Facts, books: Books, figures: Counter[str]) -> Iterator[str]:
    """No group has more in flight than its share of the slots: as even as it goes, the first ones have one more.

    The slots of a pool do not change in these worlds. Where they do, a group that was made smaller is above its
    share until enough of it has ended, which this rule would have to allow.
    """
    share, rest = divmod(books.slots, books.groups)
    dispatched = {entry.place: entry for entry in facts.dispatches}
    ended = {entry.place: entry for entry in facts.results}
    busy: dict[str, int] = {}
    for place in sorted({*dispatched, *ended}):
        if place in ended:
            busy.pop(ended[place].key, None)
            continue
        entry = dispatched[place]
        busy[entry.key] = group = entry.partition
        figures["busiest"] = max(figures["busiest"], len(busy))
        beside, slots = sum(other == group for other in busy.values()), share + (group < rest)
        if beside > slots:
            yield (
                f"{beside} requests were in flight on the {slots} slots of group {group} at {entry.at_s:.3f} "
                f"({entry.source}), {len(busy)} on all {books.slots}"
            )
            return


def _calls_are_accounted_for(facts: Facts, books: Books, figures: Counter[str]) -> Iterator[str]:
    calls = Counter(call.request for call in books.calls)
    figures["calls"] += len(books.calls)
    attempts = Counter(entry.key for entry in facts.attempts)
    figures["attempts"] += len(facts.attempts)
    # A late result ends its record for whoever owns it then, whatever others have begun meanwhile.
    late = facts.late_keys
    for key, made in calls.items():
        if made > attempts[key] + late.get(key, 0):
            yield f"{key} was called {made} times, and {attempts[key]} attempts stand in the log"


def _attempts_are_what_was_called(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """An attempt is told once, and only of a call that was made; where nothing was disturbed, of each just one.

    What is told is that nothing is known of a call (``abandoned``) may be of one that was never made.
    """
    lanes = Counter(entry.key for entry in facts.lanes if entry.late)
    told: dict[str, list[Entry]] = defaultdict(list)
    for attempt in facts.attempts:
        told[attempt.document["attempt_id"]].append(attempt)
    for name, entries in told.items():
        # One that came late was told by the successor already; a late lane record is called anew, from one on.
        excused = sum(entry.late for entry in entries) + lanes[entries[0].key]
        if len(entries) - 1 > excused:
            yield f"attempt {name} is told {len(entries)} times: " + ", ".join(
                f"{entry.source} at {entry.at_s:.3f}" for entry in entries
            )
    calls = Counter(call.request for call in books.calls)
    ended = {(e.key, e.made_from, e.document["attempt"]) for e in facts.attempts if e.document["status"] != "abandoned"}
    for key, attempts in Counter(key for key, _, _ in ended).items():
        if attempts > calls[key]:
            yield f"{key} was called {calls[key]} times, and {attempts} attempts on it are told to have ended"
    if not books.disturbances:
        for key in calls.keys() | {entry.key for entry in facts.attempts}:
            attempts = sum(entry.key == key for entry in facts.attempts)
            if calls[key] != attempts:
                yield f"nothing was disturbed, and {key} was called {calls[key]} times and told {attempts} times"


def _tables_are_the_log(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    if books.tables is None:
        return
    expected: dict[str, Iterable[Entry]] = {
        "requests": facts.winners.values(),
        "attempts": facts.attempts,
        "decisions": {entry.document["decision_id"]: entry for entry in reversed(facts.decisions)}.values(),
        "dead_letters": facts.dead_letters,
    }
    for table, entries in expected.items():
        wanted = Counter((entry.partition, entry.offset) for entry in entries)
        found = Counter((row["log_partition"], row["log_offset"]) for row in books.tables.get(table, ()))
        for place, count in found.items():
            if count > wanted[place]:  # type: ignore[index]  # rows hold plain numbers here
                yield f"table {table} has {count} rows of {place}, there should be {wanted[place]}"  # type: ignore[index]
        for place, count in wanted.items():
            if found[place] < count:
                yield f"table {table} lacks {place}"


def _charges_are_possible(facts: Facts, _books: Books, _figures: Counter[str]) -> Iterator[str]:
    return impossible_charges(facts)


def _shares_are_fair(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    return unfair_shares(facts, books.weights, books.slots) if books.weights is not None else iter(())


def _no_slot_idles(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    return idle_slots(facts, books.slots) if books.weights is not None else iter(())
