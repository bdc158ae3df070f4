"""Costs agree with exact arithmetic for all prices and counts."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fairlane.policy.pricing import PriceRow, cost, nano_per_million, price_at

NANO = st.integers(0, 10**15)
TOKENS = st.integers(0, 10**9)


@st.composite
def rows(draw: st.DrawFn) -> PriceRow:
    return PriceRow("m@2026-11-01", 0, draw(NANO), draw(NANO), draw(NANO))


@given(rows(), TOKENS, TOKENS, TOKENS)
def test_a_cost_is_the_exact_amount_rounded_half_to_even(row: PriceRow, fresh: int, cached: int, output: int) -> None:
    exact = Fraction(fresh * row.input + cached * row.cached_input + output * row.output, 1_000_000)
    assert cost(row, fresh + cached, cached, output) == round(exact)


@given(st.decimals(0, 1_000_000, places=9), TOKENS)
def test_a_cost_agrees_with_decimal_arithmetic(price: Decimal, tokens: int) -> None:
    nano = nano_per_million(str(price))
    row = PriceRow("m@2026-11-01", 0, nano, nano, nano)
    dollars = price * tokens / 1_000_000
    assert cost(row, tokens, 0, 0) == int((dollars * 10**9).to_integral_value(ROUND_HALF_EVEN))


@given(rows(), TOKENS, TOKENS, TOKENS, st.integers(0, 1000), st.integers(0, 1000))
def test_more_tokens_never_cost_less(row: PriceRow, fresh: int, cached: int, output: int, more: int, out: int) -> None:
    assert cost(row, fresh + cached + more, cached, output + out) >= cost(row, fresh + cached, cached, output)


@given(NANO, NANO, NANO, TOKENS, TOKENS, TOKENS)
def test_a_hold_without_cache_covers_the_call_where_cached_input_is_not_dearer(
    a: int, b: int, output_price: int, tokens: int, cached: int, output: int
) -> None:
    row = PriceRow("m@2026-11-01", 0, max(a, b), min(a, b), output_price)
    assert cost(row, tokens, 0, output) >= cost(row, tokens, cached, output)


@given(st.lists(st.integers(0, 100)), st.integers(-1, 101))
def test_the_price_in_force_agrees_with_a_plain_scan(starts: list[int], at: int) -> None:
    ordered = [PriceRow(f"m@{i}", start, i, i, i) for i, start in enumerate(sorted(starts))]
    scanned = [row for row in ordered if row.effective_ms <= at]
    assert price_at(ordered, at) is (scanned[-1] if scanned else None)
