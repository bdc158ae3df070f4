"""The bars that are not about speed: shares of two who wait, and what kills cost, computed without running them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.cases import HEAVY, LIGHT
from benchmarks.kills import Kills, read_kills
from benchmarks.shares import Served, shares
from fairlane.errors import Fatal

START = datetime(2026, 11, 29, tzinfo=UTC)

CHAOS = """# commit: abc
fault,lost,duplicates,over_budget,missing_rows,extra_rows,clickhouse_minus_log_nano_usd,recovery_s
kill-gate,0,0,0,0,0,0,1.90
kill-dispatcher,0,0,0,0,0,0,4.30
kill-worker,0,0,0,0,0,0,2.40
kill-settle,0,0,0,0,0,0,0.20
kill-sinks,0,0,0,0,0,0,2.90
redis-empty,0,0,0,0,0,0,9.50
provider-hang,7,0,0,0,0,0,
"""


def served(tenant: str, begin_s: float, per_second: float, count: int) -> list[Served]:
    return [Served(START + timedelta(seconds=begin_s + n / per_second), tenant, 10.0) for n in range(count)]


def test_shares_are_those_of_the_time_in_which_both_wait() -> None:
    # Both come first in first out for a second; then four for one, until the heavy tenant has no more.
    first = served(HEAVY, 0, 100, 100) + served(LIGHT, 0, 100, 100)
    both = served(HEAVY, 1, 160, 1600) + served(LIGHT, 1, 40, 400)
    alone = served(LIGHT, 11, 200, 1200)
    assert shares(first + both + alone) == pytest.approx(4.0, rel=0.01)


def test_shares_count_tokens_and_not_requests() -> None:
    long = [each._replace(units=20.0) for each in served(HEAVY, 0, 40, 400)]
    assert shares(long + served(LIGHT, 0, 40, 400)) == pytest.approx(2.0, rel=0.01)


def test_who_got_nothing_while_it_waited_has_no_share() -> None:
    with pytest.raises(Fatal, match=LIGHT):
        shares(served(HEAVY, 0, 100, 500))
    with pytest.raises(Fatal, match=LIGHT):
        shares([])


def test_kills_sum_up_what_broke_and_take_the_longest_recovery_of_a_stage(tmp_path: Path) -> None:
    table = tmp_path / "chaos.csv"
    table.write_text(CHAOS)
    assert read_kills(table) == Kills(broken=0, recovery_s=4.3)
    table.write_text(
        CHAOS.replace("redis-empty,0,0,0", "redis-empty,1,0,0").replace("kill-sinks,0,0", "kill-sinks,0,2")
    )
    assert read_kills(table) == Kills(broken=3, recovery_s=4.3)
    table.write_text(CHAOS.replace(",2.40", ","))
    assert read_kills(table) == Kills(broken=0, recovery_s=float("inf"))


def test_a_run_that_left_a_stage_alone_says_nothing_about_kills(tmp_path: Path) -> None:
    assert read_kills(tmp_path / "chaos.csv") is None
    (tmp_path / "chaos.csv").write_text(CHAOS.replace("kill-settle", "pause-settle"))
    assert read_kills(tmp_path / "chaos.csv") is None
