"""The demo's verdict: the run checked against the log, ClickHouse and Redis. Pure functions.

Each check states what must hold, what was expected and what was found. The report shows
them as they are; ``fairlane demo`` fails if one failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairlane.devstack.demo.facts import RunFacts, Terminal, percentile, winners

FAIR_WAIT_RATIO_MAX = 0.5
"""A light tenant's p99 wait against the flooder's. First come, first served would give about 1."""
FLOOD_WAIT_MS_MIN = 200.0
"""Below this the flooder hardly waited: the pool was not overloaded, so the run shows nothing of fairness."""
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about the run."""

    name: str
    expected: str
    found: str
    passed: bool
    detail: str = ""


def judge(facts: RunFacts) -> list[Check]:
    """All checks, in the order they are shown."""
    answered = winners(facts.log)
    return [
        _every_request_is_answered(facts, answered.keys()),
        _no_duplicate_terminals(facts),
        _nothing_unasked(facts, answered.keys()),
        _no_dead_letters(facts),
        _rows_are_the_results(facts, answered.keys()),
        _each_row_costs_the_same(facts, answered.values()),
        _money_agrees(facts, answered.values()),
        _tokens_agree(facts, answered.values()),
        _holds_are_zero(facts),
        _nothing_in_flight(facts),
        _light_tenants_succeed(facts, answered.values()),
        _only_expected_refusals(facts, answered.values()),
        _flood_overloads(facts, answered.values()),
        _light_tenants_wait_less(facts, answered.values()),
    ]


def passed(checks: Iterable[Check]) -> bool:
    """Whether the run as a whole holds."""
    return all(check.passed for check in checks)


def _every_request_is_answered(facts: RunFacts, answered: Iterable[tuple[str, str]]) -> Check:
    missing = sorted(set(facts.sent) - set(answered))
    found = f"{len(set(facts.sent)) - len(missing):,}"
    return Check(
        "Every request has a terminal result", f"{len(set(facts.sent)):,} answered", f"{found} answered",
        not missing and bool(facts.sent), _examples("without", missing) if missing else "",
    )  # fmt: skip


def _no_duplicate_terminals(facts: RunFacts) -> Check:
    twice = sorted(key for key, count in Counter(terminal.key for terminal in facts.log).items() if count > 1)
    return _none("No request has two results in the log", len(twice), "duplicates", _examples("twice", twice))


def _nothing_unasked(facts: RunFacts, answered: Iterable[tuple[str, str]]) -> Check:
    strangers = sorted(set(answered) - set(facts.sent) - facts.unsure)
    return _none(
        "Every result answers a request of this run", len(strangers), "others", _examples("not sent", strangers)
    )


def _no_dead_letters(facts: RunFacts) -> Check:
    return _none("Nothing was dead-lettered", facts.dead_letters, "dead letters")


def _rows_are_the_results(facts: RunFacts, answered: Iterable[tuple[str, str]]) -> Check:
    counts = Counter(row.key for row in facts.rows)
    results = set(answered)
    wrong = sorted((results ^ set(counts)) | {key for key, count in counts.items() if count > 1})
    return Check(
        "ClickHouse has one row for each result", f"{len(results):,} rows", f"{len(facts.rows):,} rows",
        not wrong, _examples("missing, unknown or twice", wrong) if wrong else "",
    )  # fmt: skip


def _each_row_costs_the_same(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    costs = {terminal.key: (terminal.status, terminal.cost_nano_usd) for terminal in answered}
    wrong = sorted(row.key for row in facts.rows if costs.get(row.key) != (row.status, row.cost_nano_usd))
    return _none(
        "Each row has its result's status and cost, to the nano-dollar", len(wrong), "differences",
        _examples("different", wrong),
    )  # fmt: skip


def _money_agrees(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    in_log: Counter[str] = Counter()
    for terminal in answered:
        in_log[terminal.tenant_id] += terminal.cost_nano_usd
    in_rows: Counter[str] = Counter()
    for row in facts.rows:
        in_rows[row.tenant_id] += row.cost_nano_usd
    tenants = sorted({*in_log, *in_rows, *facts.ledgers})
    spent = {tenant: facts.ledgers[tenant].spent_nano_usd if tenant in facts.ledgers else 0 for tenant in tenants}
    wrong = [tenant for tenant in tenants if not in_log[tenant] == in_rows[tenant] == spent[tenant]]
    detail = "; ".join(
        f"{tenant}: results {in_log[tenant]:,}, ClickHouse {in_rows[tenant]:,}, Redis {spent[tenant]:,}"
        for tenant in wrong[:_EXAMPLES]
    )
    sums = [in_log.total(), in_rows.total(), sum(spent.values())]
    found = f"{sums[0]:,} nano-dollars each" if not wrong else " / ".join(f"{amount:,}" for amount in sums)
    return Check("Results = ClickHouse = Redis, per tenant", "equal sums", found, not wrong, detail)


def _tokens_agree(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    served = sum(terminal.tokens for terminal in answered)
    by_tenant: Counter[str] = Counter()
    for row in facts.rows:
        by_tenant[row.tenant_id] += row.tokens
    shares = sum(count / served for count in by_tenant.values()) if served else 0.0
    return Check(
        "The tenants' shares of service add up to the whole", f"{served:,} tokens, 100 %",
        f"{by_tenant.total():,} tokens, {shares * 100:g} %", by_tenant.total() == served and served > 0,
    )  # fmt: skip


def _holds_are_zero(facts: RunFacts) -> Check:
    held = sum(abs(ledger.held_nano_usd) for ledger in facts.ledgers.values())
    names = [tenant for tenant, ledger in sorted(facts.ledgers.items()) if ledger.held_nano_usd]
    return _none("All holds are released", held, "nano-dollars held", ", ".join(names))


def _nothing_in_flight(facts: RunFacts) -> Check:
    left = sum(abs(ledger.undispatched) + abs(ledger.in_flight) for ledger in facts.ledgers.values())
    names = [tenant for tenant, ledger in sorted(facts.ledgers.items()) if ledger.undispatched or ledger.in_flight]
    return _none("Nothing waits and nothing is in flight", left, "requests", ", ".join(names))


def _light_tenants_succeed(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    succeeded = {terminal.key for terminal in answered if terminal.status == "succeeded"}
    asked = {key for key in facts.sent if key[0] != facts.flooder}
    missing = sorted(asked - succeeded)
    flooder = sum(1 for tenant, _ in succeeded if tenant == facts.flooder)
    return Check(
        "Every light tenant's request succeeds, and some of the flooder's",
        f"{len(asked):,} and at least 1", f"{len(asked) - len(missing):,} and {flooder:,}",
        bool(asked) and not missing and flooder > 0, _examples("not succeeded", missing) if missing else "",
    )  # fmt: skip


def _only_expected_refusals(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    others = Counter(
        f"{terminal.status} {terminal.error_code}"
        for terminal in answered
        if terminal.status != "succeeded"
        and not (terminal.tenant_id == facts.flooder and terminal.error_code == "queue_full")
    )
    detail = ", ".join(f"{count:,} {what}" for what, count in others.most_common(_EXAMPLES))
    return _none("Nothing failed but what the flooder's cap refused", others.total(), "other outcomes", detail)


def _flood_overloads(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    wait = percentile(_waits(answered, facts.flooder), 99)
    return Check(
        "The flood overloaded the pool", f"its p99 wait ≥ {FLOOD_WAIT_MS_MIN:,.0f} ms", f"{wait:,.0f} ms",
        wait >= FLOOD_WAIT_MS_MIN, "" if wait >= FLOOD_WAIT_MS_MIN else "without overload the run shows no fairness",
    )  # fmt: skip


def _light_tenants_wait_less(facts: RunFacts, answered: Iterable[Terminal]) -> Check:
    results = list(answered)
    limit = percentile(_waits(results, facts.flooder), 99) * FAIR_WAIT_RATIO_MAX
    light = sorted({terminal.tenant_id for terminal in results} - {facts.flooder})
    waits = {tenant: percentile(_waits(results, tenant), 99) for tenant in light}
    worst = max(waits, key=lambda tenant: waits[tenant], default="nobody")
    found = waits.get(worst, 0.0)
    return Check(
        "The flooder waits for itself: the others' p99 wait stays low",
        f"≤ {limit:,.0f} ms (half the flooder's)", f"{found:,.0f} ms ({worst})", bool(waits) and found <= limit,
    )  # fmt: skip


def _waits(answered: Iterable[Terminal], tenant_id: str) -> list[float]:
    return [
        terminal.queue_ms for terminal in answered if terminal.tenant_id == tenant_id and terminal.status == "succeeded"
    ]


def _none(name: str, count: int, what: str, detail: str = "") -> Check:
    return Check(name, f"0 {what}", f"{count:,} {what}", count == 0, detail if count else "")


def _examples(what: str, keys: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join("/".join(key) for key in keys[:_EXAMPLES])
    more = f" and {len(keys) - _EXAMPLES:,} more" if len(keys) > _EXAMPLES else ""
    return f"{what}: {shown}{more}"
