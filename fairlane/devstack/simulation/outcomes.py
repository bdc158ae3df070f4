"""Judges of what requests came to: one that did not succeed had a cause in its world, and its code names that cause.

So a run in which good requests fail is no proof of anything, whatever faults it had: with a small cap what does not
succeed was refused while the tenant had as many undispatched; beside a failing provider its call fell into
the time of the failure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from fairlane.devstack.simulation.books import Books
from fairlane.devstack.simulation.facts import Asked, Entry, Facts

FITTING: Mapping[str, frozenset[str]] = {
    "rejected": frozenset(
        {"schema_violation", "unknown_tenant", "unknown_model", "queue_full", "idempotency_mismatch", "internal"}
    ),
    "expired": frozenset({"deadline_exceeded"}),
    "cancelled": frozenset({"cancelled"}),
    "failed": frozenset({"provider_timeout", "provider_unavailable", "internal"}),
}
"""The codes that a result of a status may have in these worlds."""
PROVIDER_CODES = {
    "provider-failing": "provider_unavailable",
    "provider-cutting": "provider_unavailable",
    "provider-hanging": "provider_timeout",
    "provider-broken": "internal",
}
"""What a call ends with that begins while the provider is in that state."""
FIRST_PIECES_S = 0.04
"""A call notices the state of the provider so long after it began: streams send two pieces first."""
LONGEST_S = 120.0
"""The deadline of a request that names none, after it was asked."""
ROUNDED_S = 0.002
"""Clocks of processes and deadlines are whole milliseconds."""


def deadline_s(asked: Asked) -> float:
    """When the time of a request is over, on the clock of the run."""
    document = asked.entry.document
    if "deadline" in document:
        return 0.0
    timeout_ms = document.get("timeout_ms")
    return asked.entry.at_s + (timeout_ms / 1000 if isinstance(timeout_ms, int) else LONGEST_S)


def wrong_outcomes(facts: Facts, books: Books, figures: Counter[str]) -> Iterator[str]:
    """Requests that did not succeed without a cause, or succeeded where they could not."""
    asked_of: dict[str, list[Asked]] = defaultdict(list)
    for asked in facts.asked:
        if asked.name:
            asked_of[asked.name].append(asked)
    good = {name for name, all_asked in asked_of.items() if any(_is_good(asked, books) for asked in all_asked)}
    for name in good - facts.winners.keys():
        yield f"{name} was good and did not succeed"
    causes = _Causes(facts, books, asked_of)
    for name, winner in facts.winners.items():
        status, code = winner.document["status"], _code(winner)
        if name in asked_of and (wrong := causes.wrong(name, winner, status, code)):
            yield f"{name} ended {status} ({code}) at {winner.at_s:.3f}, but {wrong}"
        if name in good and status != "cancelled":
            figures["good"] += 1
            figures["good_succeeded"] += status == "succeeded"
    for letter in facts.dead_letters:
        named = facts.asked_at.get(letter.made_from)
        if named is not None and named.name:
            bodies = {asked.body for asked in asked_of[named.name]}
            if letter.document["error"]["code"] != "request_id_reused" or len(bodies) < 2:
                yield f"{letter.made_from} ({named.name}) has a dead letter, and could have had a result"


class _Causes:
    """What there was in the world of a run that keeps a request from succeeding."""

    def __init__(self, facts: Facts, books: Books, asked_of: Mapping[str, list[Asked]]) -> None:
        self._facts = facts
        self._books = books
        self._asked_of = asked_of

    def wrong(self, name: str, winner: Entry, status: str, code: str) -> str:
        """What is wrong with an outcome; empty if it has its cause."""
        refusals = [_refusal(asked, self._books) for asked in self._asked_of[name]]
        if all(refusals):
            return "" if code in refusals and status in ("rejected", "expired") else f"it had to be {refusals[0]}"
        if status == "succeeded":
            return f"it has the error {code}" if code else ""
        if code not in FITTING[status]:
            return "no such code fits"
        if winner.document["replayed"]:
            return "" if self._first_ended_so(winner, status, code) else "no first answer was like that"
        match code:
            case "queue_full":
                caused = self._was_full(winner)
            case "deadline_exceeded":
                first_s = min(deadline_s(asked) for asked in self._asked_of[name])
                caused = winner.at_s + self._books.ahead_s() + ROUNDED_S >= first_s
            case "cancelled":
                caused = any(command.place < winner.place for command in self._facts.cancels.get(name, ()))
            case "idempotency_mismatch":
                caused = self._key_has_another_body(name)
            case "internal" if status == "rejected":
                caused = self._gates_disagreed(name, winner)
            case _:
                caused = self._provider_failed(name, code)
        return "" if caused else "nothing in its world caused that"

    def _first_ended_so(self, replay: Entry, status: str, code: str) -> bool:
        about = (replay.document["tenant_id"], replay.document["idempotency_key"])
        return any(
            (first.document["tenant_id"], first.document["idempotency_key"]) == about
            and not first.document["replayed"]
            and (first.document["status"], _code(first)) == (status, code)
            for entries in self._facts.results_of.values()
            for first in entries
        )

    def _key_has_another_body(self, name: str) -> bool:
        mine = self._asked_of[name][0]
        key = mine.entry.document.get("idempotency_key")
        return any(
            asked.tenant == mine.tenant
            and asked.entry.document.get("idempotency_key") == key
            and asked.body != mine.body
            for asked in self._facts.asked
        )

    def _gates_disagreed(self, name: str, winner: Entry) -> bool:
        """Whether a gate may have found expired what another one, or itself later, did not.

        The store remembers that it was refused, and who would have accepted it can only say so. It takes a gate
        whose clock was off by then, and a deadline that had passed by the clock of one of them.
        """
        clocks = self._books.gate_clocks(winner.at_s)
        first_s = min(deadline_s(asked) for asked in self._asked_of[name])
        return bool(clocks) and winner.at_s + max(0.0, *clocks) + ROUNDED_S >= first_s

    def _provider_failed(self, name: str, code: str) -> bool:
        begun = [call.at_s for call in self._books.calls if call.request == name]
        return any(
            PROVIDER_CODES.get(fault.kind) == code
            and any(fault.at_s - FIRST_PIECES_S <= at_s <= fault.at_s + fault.amount for at_s in begun)
            for fault in self._books.disturbances
        )

    def _was_full(self, winner: Entry) -> bool:
        """Whether so many requests of the tenant were in the store as it may have waiting.

        Counted are those that were asked before the refusal and were not known to be settled when the refused one was
        asked: if they came into lanes, and where anything went wrong also if not. The store hears of a request before
        its lane does, and what it heard stands although the gate died in between.
        """
        refused = self._facts.asked_at.get(winner.made_from)
        if refused is None:
            return False
        in_lanes = {lane.key for lane in self._facts.lanes}
        waiting = set[str]()
        for name, asked_of in self._asked_of.items():
            if name not in in_lanes and not self._books.disturbances:
                continue
            booked = self._booked_at(self._facts.winners.get(name))
            for asked in asked_of:
                admissible = asked.tenant == refused.tenant and not _refusal(asked, self._books)
                if admissible and asked.entry.place < winner.place and booked > refused.entry.place:
                    waiting.add(name)
        waiting.discard(winner.key)
        return len(waiting) >= self._books.cap

    def _booked_at(self, winner: Entry | None) -> float:
        """The place at which settle said that it is done with a result; infinity if never."""
        commits = self._facts.settled.get(winner.partition, ()) if winner is not None else ()
        if winner is None or not commits:
            return float("inf")
        index = bisect_left(commits, winner.offset + 1, key=lambda commit: commit[0])
        return commits[index][1] if index < len(commits) else float("inf")


def _code(result: Entry) -> str:
    error = result.document["error"]
    return error["code"] if error else ""


def _refusal(asked: Asked, books: Books) -> str:
    """The code with which this request must be refused; empty if it need not be."""
    document = asked.entry.document
    body = document.get("body")
    if "surprise" in document or not isinstance(body, dict) or body.get("max_tokens") == -1:
        return "schema_violation"
    if asked.tenant not in books.tenants:
        return "unknown_tenant"
    if "deadline" in document:
        return "deadline_exceeded"
    return "" if body.get("model") == "m" else "unknown_model"


def _is_good(asked: Asked, books: Books) -> bool:
    hurried = asked.entry.document.keys() & {"timeout_ms", "idempotency_key"}
    return not hurried and not _refusal(asked, books)
