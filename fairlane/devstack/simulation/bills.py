"""Judges of money: what is held, billed and booked, computed again from what was asked and what the provider said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from typing import Any

from fairlane.devstack.simulation.books import Books, Prices
from fairlane.devstack.simulation.facts import Facts
from fairlane.devstack.simulation.measures import prompt_tokens

NOTHING = (0, 0)


def money_that_does_not_add_up(facts: Facts, books: Books, figures: Counter[str]) -> Iterator[str]:
    """What is booked is what the first answers cost: a repeated answer costs nothing, and nothing stays held."""
    spent: Counter[str] = Counter()
    for key, winner in facts.winners.items():
        document = winner.document
        figures[document["status"]] += 1
        if not document["replayed"]:
            spent[document["tenant_id"]] += document["cost"]["nano_usd"]
        elif document["cost"]["nano_usd"] or _tokens(document) != NOTHING:
            yield f"{key} repeats an answer, and was charged for it"
    for tenant, usage in books.usage.items():
        if usage.held_nano_usd or usage.undispatched or usage.in_flight:
            yield f"{tenant} still has {usage}"
        if usage.spent_nano_usd != spent[tenant]:
            yield f"{tenant} spent {usage.spent_nano_usd}, its winners cost {spent[tenant]}"


def wrong_prices(facts: Facts, books: Books, _figures: Counter[str]) -> Iterator[str]:
    """A hold is the price of the prompt and all the output allowed; a cost is that of what the provider answered."""
    holds: dict[str, int] = {}
    for lane in facts.lanes:
        hold = holds[lane.key] = lane.document["hold_nano_usd"]
        if (asked := facts.asked_at.get(lane.made_from)) is None:
            yield f"{lane.key} is in a lane and was never asked"
            continue
        body = asked.entry.document["body"]
        least, most = (price(books.prices, tokens, body["max_tokens"]) for tokens in prompt_tokens(body))
        if not least <= hold <= most:
            yield f"{lane.key} holds {hold}, and may cost {least}, or {most} with what stands around its messages"
    answers: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for call in books.calls:
        answers[call.request].add((call.input_tokens, call.output_tokens))
    for key, winner in facts.winners.items():
        if not winner.document["replayed"]:
            yield from _wrong_bill(key, winner.document, books.prices, holds.get(key, 0), answers.get(key, set()))
    for attempt in facts.attempts:
        if attempt.document["status"] != "abandoned":
            hold, answered = holds.get(attempt.key, 0), answers.get(attempt.key, set())
            yield from _wrong_bill(f"attempt on {attempt.key}", attempt.document, books.prices, hold, answered)


def _wrong_bill(
    name: str, document: Mapping[str, Any], prices: Prices, hold: int, answered: set[tuple[int, int]]
) -> Iterator[str]:
    tokens, billed = _tokens(document), document["cost"]["nano_usd"]
    if document["status"] == "succeeded":
        allowed = answered
    else:
        # What a provider that cuts an answer off says it delivered; else nothing is known to be delivered.
        allowed = {NOTHING, *((inputs, outputs // 2) for inputs, outputs in answered)}
    if tokens not in allowed:
        yield f"{name} was billed for {tokens}, the provider answered {sorted(answered)}"
    if billed != min(hold, price(prices, *tokens)):
        yield f"{name} cost {billed}, and {tokens} come to {price(prices, *tokens)} (held {hold})"


@cache
def price(prices: Prices, input_tokens: int, output_tokens: int) -> int:
    """Nano-dollars, half to even: a dollar a million tokens is a thousand of them a token."""
    exact = 1000 * (input_tokens * Decimal(prices.input) + output_tokens * Decimal(prices.output))
    return int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


def _tokens(document: Mapping[str, Any]) -> tuple[int, int]:
    usage = document["usage"]
    return usage["input_tokens"], usage["output_tokens"]
