"""What the soak concludes from its samples, without running it."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from benchmarks.drawing import Panel, draw
from benchmarks.soak import command
from benchmarks.soak_samples import open_handles
from benchmarks.soak_verdict import TOLERANCES, Custody, Sample, Strain, growths, kept, unseen

CUSTODY = Custody(sent=100, answered=100, succeeded=100, duplicates=0, rows=100, distinct_rows=100, lag_at_end=0.0)


def memory(value_at: dict[int, float], of: str = "gate-1", series: str = "memory, MB") -> list[Sample]:
    return [Sample(float(second), series, of, value) for second, value in value_at.items()]


@pytest.mark.parametrize("minutes", ["0", "-1", "a while", "1"])
def test_a_time_that_is_none_or_too_short_to_judge_is_a_usage_error(minutes: str) -> None:
    refused = CliRunner().invoke(command, ["--minutes", minutes])
    assert refused.exit_code == 2
    assert "--minutes" in refused.output


def test_a_leak_is_found_although_the_process_restarts() -> None:
    chance = random.Random(1)
    leak = {second: 90 + second / 10 + chance.uniform(-3, 3) for second in range(0, 900, 5)}
    leak[300] = leak[600] = 60.0
    (found,) = growths(memory(leak), 180)
    assert found.grew == pytest.approx(72, rel=0.1)
    assert not found.holds


def test_noise_and_restarts_are_no_leak() -> None:
    chance = random.Random(2)
    flat = {second: 90 + chance.uniform(-5, 5) for second in range(0, 900, 5)}
    flat |= dict.fromkeys(range(300, 330, 5), 60.0)
    (found,) = growths(memory(flat), 180)
    assert found.holds


def test_what_grows_during_the_warm_up_only_is_not_judged() -> None:
    keys = {second: min(second, 200) * 50.0 for second in range(0, 900, 5)}
    (found,) = growths(memory(keys, "redis", "Redis keys"), 200)
    assert (found.grew, found.holds) == (0.0, True)
    steady = {second: second * 50.0 for second in range(0, 900, 5)}
    assert not growths(memory(steady, "redis", "Redis keys"), 200)[0].holds


def test_a_series_that_could_hardly_be_sampled_does_not_hold() -> None:
    (found,) = growths(memory({500: 1.0, 505: 1.0}), 100)
    assert not found.holds


def test_what_was_not_looked_at_is_told() -> None:
    def every(series: str, seconds: range, of: str = "gate-1") -> list[Sample]:
        return memory(dict.fromkeys(seconds, 80.0), of, series)

    all_series = [sample for series in TOLERANCES for sample in every(series, range(0, 900, 3))]
    assert unseen(all_series, 900, []) == []
    assert unseen([each for each in all_series if each.series != "lag, records"], 900, []) == [
        "lag, records was never sampled"
    ]
    gone = every("memory, MB", range(0, 300, 3), "gate-2")
    assert unseen([*all_series, *gone], 900, []) == ["memory, MB of gate-2 was not seen for 603 s until second 900"]
    late = every("memory, MB", range(500, 900, 3), "gate-2")
    (told,) = unseen([*all_series, *gone, *late], 900, [])
    assert told == "memory, MB of gate-2 was not seen for 203 s until second 500"


def test_what_was_seen_only_at_the_end_was_not_looked_at_before() -> None:
    last = dict.fromkeys(range(870, 900, 3), 80.0)
    samples = [sample for series in TOLERANCES for sample in memory(last, series=series)]
    assert unseen(samples, 900, ["gate-1"]) == [
        f"{series} of gate-1 was not seen for 870 s until second 870" for series in TOLERANCES
    ]


def test_a_process_that_was_never_sampled_is_told() -> None:
    always = dict.fromkeys(range(0, 900, 3), 80.0)
    samples = [sample for series in TOLERANCES for sample in memory(always, series=series)]
    assert unseen(samples, 900, ["gate-1"]) == []
    assert unseen(samples, 900, ["gate-1", "worker-2"]) == [
        f"{series} of worker-2 was never sampled" for series in ("memory, MB", "handles", "threads")
    ]
    half = [*samples, *memory(always, "worker-2"), *memory(always, "worker-2", "handles")]
    assert unseen(half, 900, ["gate-1", "worker-2"]) == ["threads of worker-2 was never sampled"]


def test_memory_of_clickhouse_may_grow_up_to_a_ceiling_and_its_handles_and_threads_may_not() -> None:
    rising = {n: n / 2 for n in range(900)}
    samples = [each for series in TOLERANCES for each in memory(rising, "clickhouse", series)]
    held = {found.series for found in growths(samples, 0) if found.holds}
    assert held == {"memory, MB", "lag, records"}  # 450 MB; a lag of 450 records is one of less than a second
    (above,) = growths(memory(rising | {900: 1000.0}, "clickhouse"), 0)
    assert not above.holds


def test_a_leak_is_found_although_each_kill_takes_back_what_was_leaked() -> None:
    chance = random.Random(3)

    def lives(per_second: float) -> list[Sample]:
        return [
            Sample(float(n), "memory, MB", "gate-1", 90 + n % 240 * per_second + chance.uniform(-1, 1), life=n // 240)
            for n in range(0, 900, 3)
        ]

    (found,) = growths(lives(0.05), 180)
    assert found.grew == pytest.approx(36, rel=0.15)
    assert not found.holds
    (steady,) = growths(lives(0.0), 180)
    assert steady.holds


def test_what_a_new_process_takes_in_its_first_minute_is_no_leak() -> None:
    samples = [Sample(float(n), "memory, MB", "gate-1", 80 + min(n % 240, 50), life=n // 240) for n in range(0, 900, 3)]
    (found,) = growths(samples, 180)
    assert found.holds


def lag(chance: random.Random, per_second: float = 0.0) -> list[Sample]:
    """The lag of the sinks at 750 requests a second: a batch fills and is inserted, out of step with the looks."""
    return [
        Sample(float(n), "lag, records", "sinks", 2_000 + chance.uniform(0, 11_000) + n * per_second)
        for n in range(180, 900, 3)
    ]


def calls(chance: random.Random, leaked_a_kill: float = 0.0) -> list[Sample]:
    """The handles of the simulator: connections that stay open for five looks, many after each kill."""
    under_way = [50 + chance.expovariate(1 / 15) + (300 if n % 2 else 0) for n in range(60)]
    return [
        Sample(float(n), "handles", "simulator", under_way[n // 15] + n / 30 * leaked_a_kill)
        for n in range(180, 900, 3)
    ]


def test_what_scatters_with_the_load_does_not_grow() -> None:
    seeds = range(60)
    of_lag = [growths(lag(random.Random(seed)), 0)[0] for seed in seeds]
    of_calls = [growths(calls(random.Random(seed)), 0)[0] for seed in seeds]
    assert all(found.holds for found in [*of_lag, *of_calls])
    assert sum(found.grew > TOLERANCES["lag, records"].least for found in of_lag) > 0  # so it takes an allowance


def test_a_group_that_leaves_two_thousandths_of_its_work_undone_grows() -> None:
    undone_per_second = 0.002 * 3_000
    verdicts = [growths(lag(random.Random(seed), undone_per_second), 0)[0] for seed in range(20)]
    assert not any(found.holds for found in verdicts)


def test_two_handles_lost_with_each_kill_are_a_growth_under_load_already() -> None:
    verdicts = [growths(calls(random.Random(seed), 2.0), 0)[0] for seed in range(20)]
    assert not any(found.holds for found in verdicts)


def test_however_much_a_series_scatters_it_may_not_grow_by_more_than_half_its_level() -> None:
    chance = random.Random(4)
    wild = [Sample(n * 30.0, "lag, records", "sinks", 4_000 + chance.uniform(-4_000, 4_000)) for n in range(10)]
    grown = [sample._replace(value=sample.value + sample.second * 15) for sample in wild]
    (found,) = growths(grown, 0)
    assert found.allowed == pytest.approx(found.median / 2)
    assert not found.holds


def test_scatter_explains_no_growth_of_memory_threads_or_keys() -> None:
    for series in ("memory, MB", "threads", "Redis keys", "Redis memory, MB"):
        (found,) = growths([sample._replace(series=series) for sample in lag(random.Random(5))], 0)
        assert found.allowed == pytest.approx(max(TOLERANCES[series].least, TOLERANCES[series].share * found.median))


def short_lives(chance: random.Random, calls_under_way: float, leaked_per_second: float) -> list[Sample]:
    """The handles of a process that is killed every two minutes."""
    return [
        Sample(
            float(n), "handles", "worker-2",
            26 + int(chance.uniform(0, 2) * calls_under_way) + int(n % 120 * leaked_per_second), n // 120,
        )
        for n in range(180, 900, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(("calls_under_way", "leaked_per_second"), [(0.0, 1 / 15), (10.0, 1.0)])
def test_a_leak_is_found_although_no_life_is_long(calls_under_way: float, leaked_per_second: float) -> None:
    for seed in range(20):
        (found,) = growths(short_lives(random.Random(seed), calls_under_way, 0.0), 180)
        assert found.holds
        (found,) = growths(short_lives(random.Random(seed), calls_under_way, leaked_per_second), 180)
        assert not found.holds


def test_what_a_process_holds_at_rest_is_what_it_held_before_the_load() -> None:
    before = {"gate-1": 20, "simulator": 14, "worker-1": 20}
    assert kept(before, {"gate-1": 22, "simulator": 22, "worker-1": 10}) == []
    assert kept(before, {"gate-1": 22, "simulator": 24}) == [
        "simulator holds 24 handles at rest, 14 before the load",
        "worker-1 is gone",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answered": 99, "succeeded": 99, "rows": 99, "distinct_rows": 99}, "1 of 100 requests have no result"),
        ({"succeeded": 0}, "100 of 100 results are no success"),
        ({"duplicates": 2}, "2 results came twice"),
        ({"rows": 101}, "101 rows of 100 requests for 100 results"),
        ({"rows": 99, "distinct_rows": 99}, "99 rows"),
        ({"lag_at_end": 3.0}, "3 records are not committed"),
    ],
)
def test_each_breach_of_custody_is_told(changes: dict[str, float], said: str) -> None:
    assert CUSTODY.failures() == []
    assert said in " ".join(replace(CUSTODY, **changes).failures())  # type: ignore[arg-type]  # figures of each field


def test_a_run_that_was_spared_proves_nothing() -> None:
    assert Strain(offered=600, achieved=599, planned_kills=29, kills=29).failures() == []
    assert "599 a second of 700" in Strain(offered=700, achieved=599, planned_kills=29, kills=29).failures()[0]
    assert "28 of 29 kills" in Strain(offered=600, achieved=599, planned_kills=29, kills=28).failures()[0]


def test_a_plot_is_a_picture_and_the_same_each_time(tmp_path: Path) -> None:
    panel = Panel("t", "x", "y", {"a": [(0.0, 1.0), (1.0, 2.0)], "b": [(0.0, 3.0)]}, marks=[0.5])
    first, second = tmp_path / "1.svg", tmp_path / "2.svg"
    for path in (first, second):
        draw(path, [panel, replace(panel, log_y=True)], "title")
    assert ET.fromstring(first.read_text()).tag.endswith("svg")
    assert first.read_bytes() == second.read_bytes()


def test_files_below_what_is_spared_are_no_handles_and_others_are(tmp_path: Path) -> None:
    data, process = tmp_path / "data", psutil.Process()
    data.mkdir()
    before = open_handles(process, [data])
    with (data / "segment.log").open("w"), (tmp_path / "other").open("w"), Path("/proc/self/stat").open():
        assert open_handles(process, [data]) == before + 2
        assert open_handles(process, [data, Path("/proc")]) == before + 1
