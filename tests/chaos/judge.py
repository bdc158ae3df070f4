"""Counts what a fault broke: reads the log, Redis, ClickHouse and the simulator, and shares nothing with the stages."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fairlane.ports import TenantUsage
from tests.chaos.load import Sent
from tests.chaos.log_observer import Seen
from tests.chaos.probes import Booked, UsageSample
from tests.chaos.stack_config import CAPS

PLACE = "log_partition, log_offset"
TABLES = {
    "requests": ("results", f"{PLACE}, tenant_id, request_id, cost_nano_usd"),
    "attempts": ("attempts", f"{PLACE}, tenant_id, request_id, cost_nano_usd"),
    "decisions": ("decisions", f"{PLACE}, tenant_id, request_id, 0 AS cost_nano_usd"),
    "dead_letters": ("dead-letters", f"{PLACE}, tenant_id, request_id, 0 AS cost_nano_usd"),
}
"""By table the topic its rows come from, and what is asked of it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the requests that are judged: those whose id begins with ``run``; empty: all there ever were.

    ``log`` holds at least all that came since the first of them, and so do ``samples``; ``spent_before`` is what
    tenants had spent when they were asked, when nothing was held. ``spent`` and ``usage`` are of the whole life of
    the stack.
    """

    run: str
    sent: Sequence[Sent]
    log: Mapping[str, Sequence[Seen]]
    spent_before: Mapping[str, int]
    samples: Sequence[UsageSample]
    spent: Mapping[str, int]
    usage: Mapping[str, TenantUsage]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    calls: int
    booked: Sequence[Booked]
    """How far settle had come, over time."""


@dataclass(slots=True)
class Counts:
    """What was counted. ``examples`` are the first few of what is wrong."""

    requests: int = 0
    offered: int = 0
    """Records that were sent."""
    unacknowledged: int = 0
    """Of these those the broker did not acknowledge: they are neither good nor lost."""
    lost: int = 0
    duplicates: int = 0
    """Rows of a request in ClickHouse beyond the first, and dead letters of a record beyond the first. A row of another
    result than the first is no duplicate: it is one too many, and the right one is missing."""
    raw_duplicates: int = 0
    """Terminal results beyond the first of their request in the log, whether or not they count."""
    over_budget: int = 0
    """Samples in which a tenant's spent and held were above what it had spent before and the holds of all it asked
    since, each only its cost once that was booked, or its waiting requests above its cap; results that cost more than
    their hold; and requests that, by the log, were let in when as many as the cap allows waited already. There are no
    budgets in the chain yet."""
    fullest: float = 0.0
    """The most that waited of a tenant's requests at once by the log, as a share of its cap. Below 1 the cap was not
    reached, and nobody could have been over it."""
    cancelled: int = 0
    """Requests that ended cancelled."""
    cancelled_unasked: int = 0
    """Of these those for which there was no command."""
    cancelled_called: int = 0
    """Of these those with a call or a cost: a request at a worker completes."""
    left_held: int = 0
    """Tenants with a hold, a waiting or a running request at the end, when there was none."""
    redis_nano: int = 0
    """What Redis says was spent, less what the results cost; sum over tenants of the difference's size."""
    missing_rows: int = 0
    extra_rows: int = 0
    clickhouse_nano: int = 0
    """Costs in the log without their row, and costs of rows without their record."""
    calls: int = 0
    called: int = 0
    """Requests that had to be called."""
    good: int = 0
    succeeded: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, example: str) -> None:
        """Keep an example, if there are not enough."""
        if len(self.examples) < 8:
            self.examples.append(example)

    @property
    def calls_per_request(self) -> float:
        """Calls to the provider for each request that had to be called."""
        return self.calls / self.called if self.called else 0.0


def judge(evidence: Evidence) -> Counts:
    """Count everything."""
    counts = Counts()
    mine = _Mine(evidence)
    _terminals(evidence, mine, counts)
    _cancelled(evidence, mine, counts)
    _money(evidence, mine, counts)
    _waiting(evidence, counts)
    _rows(evidence, mine, counts)
    _calls(evidence, mine, counts)
    return counts


class _Mine:
    """The part of the log that belongs to the judged requests."""

    def __init__(self, evidence: Evidence) -> None:
        self._run = evidence.run
        log = evidence.log
        places = {sent.place for sent in evidence.sent if sent.place}
        self.asked = [seen for seen in log["requests"] if seen.place in places or self.owns(seen.key_of_request)]
        asked_places = {seen.place for seen in self.asked} | places
        self.letters = [seen for seen in log["dead-letters"] if not self._run or seen.made_from in asked_places]
        self.results: dict[str, list[Seen]] = defaultdict(list)
        for seen in log["results"]:
            if self.owns(seen.key):
                self.results[seen.key].append(seen)
        self.winners = {key: min(seen, key=lambda one: one.offset) for key, seen in self.results.items()}
        self.lanes = [seen for topic in log if topic.startswith("lanes.") for seen in log[topic] if self.owns(seen.key)]

    def owns(self, key: str) -> bool:
        """Whether ``tenant/request`` is judged."""
        return not self._run or key.partition("/")[2].startswith(self._run + "-")


def _terminals(evidence: Evidence, mine: _Mine, counts: Counts) -> None:
    counts.requests = len(mine.asked)
    counts.offered = len(evidence.sent)
    counts.unacknowledged = sum(not sent.place for sent in evidence.sent)
    asked_places = {seen.place for seen in mine.asked}
    letters = Counter(letter.made_from for letter in mine.letters)
    for sent in evidence.sent:
        if sent.place and sent.place not in asked_places:
            counts.lost += 1
            counts.note(f"{sent.place} was acknowledged and is not in the log")
    for seen in mine.asked:
        if not letters[seen.place] and seen.key_of_request not in mine.results:
            counts.lost += 1
            counts.note(f"{seen.place} ({seen.key_of_request or 'no ids'}) has no terminal")
    for place, count in letters.items():
        if count > 1:
            counts.raw_duplicates += count - 1
            counts.duplicates += count - 1
            counts.note(f"{place} has {count} dead letters")
    for key, results in mine.results.items():
        # One who asks again under the same id is answered again; every other result is the one terminal.
        terminals = [r for r in results if not (r.document.get("replayed") and r.made_from in asked_places)]
        sources = Counter(result.made_from for result in results)
        excess = max(len(terminals) - 1, sum(count - 1 for count in sources.values()), 0)
        if excess:
            counts.raw_duplicates += excess
            counts.note(
                f"{key} has {len(results)} results: " + ", ".join(f"{r.place} from {r.made_from}" for r in results)
            )
    for sent in evidence.sent:
        if sent.fresh and sent.place:
            counts.good += 1
            winner = mine.winners.get(sent.key)
            if winner is not None and winner.document.get("status") == "succeeded":
                counts.succeeded += 1
            elif winner is not None:
                error = winner.document.get("error") or {}
                counts.note(f"{sent.key} {winner.document.get('status')}: {error.get('code')} {error.get('message')}")


def _cancelled(evidence: Evidence, mine: _Mine, counts: Counts) -> None:
    asked = {sent.key for sent in evidence.sent if sent.kind == "cancelled"}
    called = {seen.key for seen in evidence.log["attempts"]}
    for key, winner in mine.winners.items():
        if winner.document.get("status") != "cancelled":
            continue
        counts.cancelled += 1
        if key not in asked:
            counts.cancelled_unasked += 1
            counts.note(f"{key} was cancelled, and nobody had asked for that")
        if key in called or winner.document.get("attempts") or _cost(winner):
            counts.cancelled_called += 1
            counts.note(f"{key} ended as cancelled and was called")


def _money(evidence: Evidence, mine: _Mine, counts: Counts) -> None:
    holds = {seen.key: int(seen.document["hold_nano_usd"]) for seen in mine.lanes}
    for key, winner in mine.winners.items():
        if key in holds and _cost(winner) > holds[key]:
            counts.over_budget += 1
            counts.note(f"{key} cost {_cost(winner)} of a hold of {holds[key]}")
    asked_at: dict[str, float] = {}
    for seen in evidence.log["requests"]:
        asked_at.setdefault(seen.key_of_request, seen.at_s)
    lanes = [seen for topic in evidence.log if topic.startswith("lanes.") for seen in evidence.log[topic]]
    first_lanes = {seen.key: seen for seen in reversed(lanes)}
    growth = sorted(
        (asked_at.get(key, 0.0), str(seen.document["tenant_id"]), int(seen.document["hold_nano_usd"]))
        for key, seen in first_lanes.items()
    )
    savings = _savings(evidence, first_lanes)
    allowed = Counter(evidence.spent_before)
    position = saved = 0
    for sample in sorted(evidence.samples):
        while position < len(growth) and growth[position][0] <= sample.answered_s:
            allowed[growth[position][1]] += growth[position][2]
            position += 1
        while saved < len(savings) and savings[saved][0] <= sample.began_s:
            allowed[savings[saved][1]] -= savings[saved][2]
            saved += 1
        usage = sample.usage
        above = usage.spent_nano_usd + usage.held_nano_usd > allowed[sample.tenant]
        if above or usage.undispatched > CAPS[sample.tenant]:
            counts.over_budget += 1
            counts.note(f"{sample.tenant} had {usage} at {sample.began_s:.3f}, allowed {allowed[sample.tenant]}")
    for tenant, usage in evidence.usage.items():
        if usage.held_nano_usd or usage.undispatched or usage.in_flight:
            counts.left_held += 1
            counts.note(f"{tenant} still has {usage}")
        if usage.spent_nano_usd != evidence.spent.get(tenant, 0):
            counts.redis_nano += abs(usage.spent_nano_usd - evidence.spent.get(tenant, 0))
            booked = evidence.spent.get(tenant, 0)
            counts.note(f"{tenant} spent {usage.spent_nano_usd} in Redis and {booked} in the log")


def _savings(evidence: Evidence, lanes: Mapping[str, Seen]) -> list[tuple[float, str, int]]:
    """When each hold had become its cost at the latest, in order of time: whose it was, and by how much it was more.

    Settle commits what it has booked and nothing else, so what it was seen to have committed is held no more. A store
    that is filled again from the log is told results before holds, and so does not hold it again.
    """
    commits: dict[int, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for booked in evidence.booked:
        for partition, offset in booked.offsets.items():
            offsets, times = commits[partition]
            offsets.append(max(offset, offsets[-1] if offsets else 0))
            times.append(booked.at_s)
    first_results: dict[str, Seen] = {}
    for seen in evidence.log["results"]:
        first_results.setdefault(seen.key, seen)
    savings = []
    for key, lane in lanes.items():
        if (result := first_results.get(key)) is not None:
            offsets, times = commits[result.partition]
            if (at := bisect_right(offsets, result.offset)) < len(times):
                less = int(lane.document["hold_nano_usd"]) - _cost(result)
                savings.append((times[at], str(lane.document["tenant_id"]), less))
    return sorted(savings)


def _waiting(evidence: Evidence, counts: Counts) -> None:
    """Who waited when, by the log: from the lane to the first dispatch, void or not, or the first end.

    The store counts a request before it is in its lane and until after it was dispatched, so this is never more than
    it counts. Within a millisecond the one that leaves makes room for the one that comes.
    """
    left: dict[str, float] = {}
    for topic, records in evidence.log.items():
        for seen in records if topic == "results" or topic.startswith("inbox.") else ():
            if seen.document:
                left[seen.key] = min(seen.at_s, left.get(seen.key, seen.at_s))
    lanes = [seen for topic in evidence.log if topic.startswith("lanes.") for seen in evidence.log[topic]]
    events: list[tuple[float, int, str, str]] = []
    for key, seen in {seen.key: seen for seen in sorted(lanes, key=lambda one: -one.at_s)}.items():
        tenant = str(seen.document["tenant_id"])
        if left.get(key, seen.at_s + 1) > seen.at_s:
            events.append((seen.at_s, 1, tenant, key))
            if key in left:
                events.append((left[key], -1, tenant, key))
    waiting: Counter[str] = Counter()
    for at_s, change, tenant, key in sorted(events):
        waiting[tenant] += change
        counts.fullest = max(counts.fullest, waiting[tenant] / CAPS[tenant])
        if change > 0 and waiting[tenant] > CAPS[tenant]:
            counts.over_budget += 1
            counts.note(f"{key} was let in at {at_s:.3f}, when {waiting[tenant] - 1} of {tenant} waited already")


def _rows(evidence: Evidence, mine: _Mine, counts: Counts) -> None:
    first_decisions: dict[str, Seen] = {}
    for seen in evidence.log["decisions"]:
        if mine.owns(seen.key) or not evidence.run:
            first_decisions.setdefault(str(seen.document["decision_id"]), seen)
    expected: dict[str, Iterable[Seen]] = {
        "requests": mine.winners.values(),
        "attempts": [seen for seen in evidence.log["attempts"] if mine.owns(seen.key)],
        "decisions": first_decisions.values(),
        "dead_letters": mine.letters,
    }
    letter_places = {(seen.partition, seen.offset) for seen in mine.letters}
    for table, rows in evidence.tables.items():
        wanted = Counter((seen.partition, seen.offset, _cost(seen)) for seen in expected[table])
        found: Counter[tuple[int, int, int]] = Counter()
        for row in rows:
            place = (int(row["log_partition"]), int(row["log_offset"]))
            key = f"{row['tenant_id']}/{row['request_id']}"
            if place in letter_places if table == "dead_letters" and evidence.run else mine.owns(key):
                found[*place, int(row["cost_nano_usd"])] += 1
        missing, extra = wanted - found, found - wanted
        counts.missing_rows += missing.total()
        counts.extra_rows += extra.total()
        counts.clickhouse_nano += sum(abs(row[2]) * n for side in (missing, extra) for row, n in side.items())
        for name, side in (("lacks", missing), ("has too much", extra)):
            for partition, offset, cost in list(side)[:3]:
                counts.note(f"table {table} {name}: {partition}/{offset} of {cost}")
        if table == "requests":
            rows_of = Counter(
                (row["tenant_id"], row["request_id"]) for row in rows
                if mine.owns(f"{row['tenant_id']}/{row['request_id']}")
            )  # fmt: skip
            counts.duplicates += sum(count - 1 for count in rows_of.values())


def _calls(evidence: Evidence, mine: _Mine, counts: Counts) -> None:
    counts.calls = evidence.calls
    counts.called = sum(1 for winner in mine.winners.values() if winner.document.get("attempts"))


def _cost(seen: Seen) -> int:
    return int((seen.document.get("cost") or {}).get("nano_usd", 0))


def late_of(evidence: Evidence, runs: Sequence[str]) -> list[str]:
    """In words the second terminals, and the calls of cancelled requests, of these runs, however late they came."""
    said = []
    for run in runs:
        sent = [each for each in evidence.sent if each.request_id.startswith(run + "-")]
        part, counts = replace(evidence, run=run, sent=sent), Counts()
        mine = _Mine(part)
        _terminals(part, mine, counts)
        _cancelled(part, mine, counts)
        if counts.raw_duplicates or counts.cancelled_called:
            said.append(
                f"{run}: {counts.raw_duplicates} second terminals and {counts.cancelled_called} calls of cancelled "
                "requests, which nothing there excuses"
            )
    return said


def settled(evidence: Evidence) -> bool:
    """Whether nothing is open any more: every request has its end, every row is there, nothing is held."""
    counts = judge(evidence)
    return not (counts.lost or counts.left_held or counts.missing_rows or counts.extra_rows or counts.redis_nano)
