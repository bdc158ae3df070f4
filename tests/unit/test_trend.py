"""Slopes of series that scatter."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.trend import low_water, trend


def test_one_value_far_off_does_not_bend_the_slope() -> None:
    assert trend([[(n, 2.0 * n) for n in range(20)] + [(20, 1000.0)]]).slope == pytest.approx(2.0)
    assert trend([[(0, 5)]]) == (0.0, 0.0)
    assert trend([]) == (0.0, 0.0)


def test_a_line_has_no_scatter_and_neither_has_a_value_that_never_changes() -> None:
    assert trend([[(n, 2.0 * n) for n in range(24)]]) == (2.0, 0.0)
    assert trend([[(n, 7.0) for n in range(24)]]) == (0.0, 0.0)


def test_what_has_no_trend_is_hardly_ever_steeper_than_its_scatter() -> None:
    chance = random.Random(1)
    above = 0
    for _ in range(500):
        found = trend([[(n, chance.uniform(0, 1)) for n in range(24)]])
        above += found.slope > found.scatter
    assert above <= 4


def test_a_trend_of_twice_the_noise_is_steeper_than_its_scatter() -> None:
    chance = random.Random(2)
    for _ in range(50):
        found = trend([[(n, chance.uniform(0, 1) + n / 12) for n in range(24)]])
        assert found.slope > found.scatter


def test_lives_are_compared_with_themselves_only_and_each_adds_to_what_is_known() -> None:
    chance = random.Random(3)

    def life(begin: int, level: float) -> list[tuple[float, float]]:
        return [(begin + n, level + 0.5 * n + chance.uniform(-1, 1)) for n in range(12)]

    one, two = trend([life(0, 0)]), trend([life(0, 0), life(100, -500)])
    assert two.slope == pytest.approx(0.5, abs=0.1)
    assert two.scatter < one.scatter


def test_too_few_samples_leave_it_open_what_scatter_made() -> None:
    assert trend([[(0, 0.0), (1, 1.0), (2, 2.0)]]) == (1.0, math.inf)


def test_low_water_marks_are_of_whole_periods_from_the_first_point_on() -> None:
    points = [(10.0 + n, float(n % 7 + 1)) for n in range(22)]
    assert low_water(points, 10.0) == [(15.0, 1.0), (25.0, 1.0)]
    assert low_water([(0.0, 3.0), (5.0, 2.0), (25.0, 9.0), (30.0, 1.0)], 10.0) == [(5.0, 2.0), (25.0, 9.0)]
    assert low_water([], 10.0) == []
