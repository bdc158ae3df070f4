"""Prices and costs in integers: nano-dollars (10^-9 USD), one rounding per call, half to even.

A price is an amount per million tokens, so ``tokens * price`` is exact in units of 10^-15 USD and only
the division by a million rounds. Half to even (IEEE 754 roundTiesToEven) has no drift over many calls.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction

TOKENS_PER_PRICE = 1_000_000
NANO_PER_USD = 1_000_000_000
USD_PER_MILLION_TOKENS_MAX = 1_000_000
"""Keeps a price below 2^53 nano-dollars, the largest integer every JSON reader holds exactly."""
_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One price of one model; ``input``, ``cached_input`` and ``output`` are nano-dollars per million tokens.

    ``effective_ms`` is milliseconds since the epoch (UTC).
    """

    price_id: str
    effective_ms: int
    input: int
    cached_input: int
    output: int


def nano_per_million(usd_text: str) -> int:
    """Dollars per million tokens as text (``"0.15"``) in nano-dollars per million tokens, exactly.

    Raises ValueError if the text is no amount from 0 to a million dollars, or is finer than a nano-dollar.
    """
    try:
        amount = Decimal(usd_text)
    except InvalidOperation:
        raise ValueError("a price is a decimal number of dollars") from None
    if not amount.is_finite() or not 0 <= amount <= USD_PER_MILLION_TOKENS_MAX:
        raise ValueError(f"a price is between 0 and {USD_PER_MILLION_TOKENS_MAX} USD per million tokens")
    # Decimal arithmetic rounds to its context's precision; fractions are exact.
    nano = Fraction(amount) * NANO_PER_USD
    if nano.denominator != 1:
        raise ValueError("a price has at most 9 decimals (a nano-dollar)")
    return nano.numerator


def price_id(model: str, effective_ms: int, revision: int = 1) -> str:
    """The stable name of a price: ``sim-small@2026-11-01``, with the time of day unless it is midnight UTC.

    A correction of the same instant (``revision`` above 1) appends ``.r<revision>``.
    """
    effective = _EPOCH + timedelta(milliseconds=effective_ms)
    whole_day = effective_ms % _DAY_MS == 0
    date = effective.strftime("%Y-%m-%d" if whole_day else "%Y-%m-%dT%H:%M:%SZ")
    return f"{model}@{date}" + (f".r{revision}" if revision > 1 else "")


def price_at(rows: Sequence[PriceRow], at_ms: int) -> PriceRow | None:
    """The price in force at an instant, or None before the first.

    ``rows`` are in order of ``effective_ms``, corrections of an instant after what they correct; the
    last row that is not in the future wins.
    """
    index = bisect_right(rows, at_ms, key=lambda row: row.effective_ms)
    return rows[index - 1] if index else None


def cost(row: PriceRow, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> int:
    """The price of one call in nano-dollars, rounded once, half to even.

    ``cached_input_tokens`` are a part of ``input_tokens``; should a provider report more of them than
    input tokens, all input counts as cached. Raises ValueError for a negative count.
    """
    if input_tokens < 0 or cached_input_tokens < 0 or output_tokens < 0:
        raise ValueError("token counts are at least 0")
    cached = min(cached_input_tokens, input_tokens)
    exact = (input_tokens - cached) * row.input + cached * row.cached_input + output_tokens * row.output
    return _divide_half_even(exact, TOKENS_PER_PRICE)


def _divide_half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient % 2 == 1))
