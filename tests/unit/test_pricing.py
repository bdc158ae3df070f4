"""Prices and costs: exact integers, one rounding, half to even."""

from __future__ import annotations

import pytest

from fairlane.policy.pricing import PriceRow, cost, nano_per_million, price_at, price_id

MIDNIGHT = 1_793_491_200_000  # 2026-11-01T00:00:00Z
ROW = PriceRow("sim-small@2026-11-01", MIDNIGHT, 150_000_000, 75_000_000, 600_000_000)


def test_a_price_in_dollars_becomes_nano_dollars_exactly() -> None:
    assert nano_per_million("0.15") == 150_000_000
    assert nano_per_million("0.000000001") == 1
    assert nano_per_million("1000000") == 10**15
    assert nano_per_million("0") == 0


@pytest.mark.parametrize("text", ["", "abc", "-1", "NaN", "Infinity", "0.0000000001", "1,5", "1E99", f"1.{31 * '0'}1"])
def test_a_text_that_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a price"):
        nano_per_million(text)


def test_the_documented_example_costs_what_the_documentation_says() -> None:
    assert cost(ROW, input_tokens=9, cached_input_tokens=0, output_tokens=12) == 8550


def test_cached_tokens_are_a_part_of_the_input_and_have_their_own_price() -> None:
    assert cost(ROW, 10, 4, 0) == 6 * 150 + 4 * 75


def test_more_cached_tokens_than_input_tokens_bill_the_input_as_cached() -> None:
    assert cost(ROW, 10, 25, 0) == 10 * 75


def test_a_half_rounds_to_the_even_nano_dollar() -> None:
    half = PriceRow("m@2026-11-01", 0, 500_000, 500_000, 0)
    assert [cost(half, tokens, 0, 0) for tokens in (1, 3, 5, 7)] == [0, 2, 2, 4]


def test_parts_are_summed_before_the_one_rounding() -> None:
    third = PriceRow("m@2026-11-01", 0, 400_000, 0, 400_000)
    assert cost(third, 1, 0, 0) + cost(third, 0, 0, 1) == 0
    assert cost(third, 1, 0, 1) == 1


@pytest.mark.parametrize("counts", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_a_negative_count_is_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        cost(ROW, *counts)


def test_a_price_id_names_model_and_date() -> None:
    assert price_id("sim-small", MIDNIGHT) == "sim-small@2026-11-01"


def test_a_price_id_has_the_time_where_it_is_not_midnight() -> None:
    assert price_id("sim-small", MIDNIGHT + 3_600_000) == "sim-small@2026-11-01T01:00:00Z"


def test_a_corrected_price_has_its_own_id() -> None:
    assert price_id("sim-small", MIDNIGHT, 2) == "sim-small@2026-11-01.r2"


def test_the_price_in_force_is_the_last_that_is_not_in_the_future() -> None:
    first = PriceRow("m@1", 100, 1, 1, 1)
    second = PriceRow("m@2", 200, 2, 2, 2)
    assert price_at([first, second], 99) is None
    assert price_at([first, second], 100) is first
    assert price_at([first, second], 199) is first
    assert price_at([first, second], 200) is second


def test_a_correction_wins_over_what_it_corrects() -> None:
    row = PriceRow("m@1", 100, 1, 1, 1)
    correction = PriceRow("m@1.r2", 100, 2, 2, 2)
    assert price_at([row, correction], 150) is correction


def test_without_prices_nothing_is_in_force() -> None:
    assert price_at([], 0) is None
