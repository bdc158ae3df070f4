"""docs/performance.md says what the tables under benchmarks/results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.docs import PAGE, bars_part, cpu_part, measures_of, parts, soak_part
from benchmarks.kills import Kills
from benchmarks.result_table import read_table
from tools.docs import renewed

TABLE = """# commit: abc
# made: now
# machine: two cores
# command: bench
case,name,value,unit
bar,added latency at 100/s: missed,1,ms
100/s,added p50,8.1,ms
100/s,offered,100,1/s
100/s: worker-1,cpu,250,µs/request
100/s: worker-2,cpu,246,µs/request
100/s: kafka,cpu,289,µs/request
100/s,cpu of the stack,785,µs/request
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "bench.csv").write_text(TABLE)
    return tmp_path


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert renewed(text, parts()) == text, "docs/performance.md lags behind benchmarks/results: run make docs"


def test_processes_of_a_stage_count_together(results: Path) -> None:
    table = cpu_part(measures_of(read_table(results / "bench.csv")))
    assert "| worker | 496 |" in table
    assert "| kafka | 289 |" in table
    assert "| **all** | 785 |" in table


def test_a_bar_shows_its_verdict_from_the_figures_and_not_from_the_file(results: Path) -> None:
    lines = bars_part(measures_of(read_table(results / "bench.csv")), Kills(broken=0, recovery_s=21.5)).splitlines()
    assert "| added latency at 100/s, p50 | ms | ≤ 15 | ≤ 7 | 8.1 | first bar |" in lines
    assert "| routing decision, p99 | ms | ≤ 1 | ≤ 0.2 |  | not measured |" in lines
    assert "| kill -9: lost + twice + over budget + log − ClickHouse |  | ≤ 0 |  | 0 | first bar |" in lines
    assert "| recovery after kill -9 of any stage | s | ≤ 20 | ≤ 8 | 21.5 | missed |" in lines


def test_the_long_run_is_taken_before_the_short_one(results: Path) -> None:
    (results / "bench-quick.csv").write_text(TABLE.replace("abc", "def"))
    assert "commit: abc" in parts(results)["origin"]()
    (results / "bench.csv").unlink()
    assert "commit: def" in parts(results)["origin"]()
    (results / "bench-quick.csv").unlink()
    assert "Not measured yet" in parts(results)["origin"]()


def test_of_a_soak_the_page_shows_what_came_nearest_to_its_limit_and_whether_it_held(tmp_path: Path) -> None:
    (tmp_path / "soak.csv").write_text("""# load: 10 requests/s for 1 minutes
# kills: 1
# answers kept: 20 s
# commit: abc
second,series,of,value,life
end,growth: threads,clickhouse,10,
end,growth: threads,gate-1,6,
end,"growth: lag, records",gate,43,
end,"growth: lag, records",sinks,1440,
end,"allowed: lag, records",gate,1000,
end,"allowed: lag, records",sinks,2422,
end,allowed: threads,clickhouse,15.7,
end,allowed: threads,gate-1,4,
end,"growth: memory, MB",kafka,331,
end,"growth: memory, MB",gate-1,2,
end,"allowed: memory, MB",kafka,900,
end,"allowed: memory, MB",gate-1,10,
before,handles at rest,gate-1,20,
before,handles at rest,kafka,140,
end,handles at rest,gate-1,22,
end,handles at rest,kafka,139,
end,custody,lag_at_end,0,
0,threads,gate-1,5,7
""")
    lines = soak_part(tmp_path).splitlines()
    assert "| threads | gate-1 | 6 | 4 | **grew** |" in lines
    assert "| memory, MB | gate-1 | 2 | 10 | held |" in lines
    assert "| lag, records | sinks | 1,440 | 2,422 | held |" in lines
    assert "Handles at rest after the load against before it: at most +2, of gate-1." in lines
    assert "At the end: lag at end 0." in lines
