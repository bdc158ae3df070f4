"""What the benchmark computes, without running it: requests, schedule, percentiles, bars and costs."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import FLOODER, Case, RequestTemplate, bench_config
from benchmarks.chain import STAIR, held, highest_held
from benchmarks.load import due, percentiles
from benchmarks.measures import Bar, Measures
from benchmarks.report import commit_of
from benchmarks.stacks import read_folded
from fairlane.agents.config_file import read_catalog_file, read_tenants_file
from fairlane.devstack.first_config import SIMULATOR_URL
from fairlane.schemas.request_codec import decode_request


@pytest.mark.parametrize("size", [1024, 16_384])
def test_requests_are_valid_have_their_size_and_differ_in_their_ids(size: int) -> None:
    template = RequestTemplate(Case("c", 1, 1, body_bytes=size), "run")
    first, second = template.request("tenant-0001", 0), template.request("tenant-0002", 17)
    assert abs(len(first) - size) <= 64
    requests = [decode_request(value, 1_048_576)[0] for value in (first, second)]
    assert [(r.tenant_id, r.request_id) for r in requests] == [("tenant-0001", "run-0"), ("tenant-0002", "run-17")]


def test_the_configuration_of_the_benchmark_can_be_applied() -> None:
    config = bench_config()
    catalog = config.catalog.replace(SIMULATOR_URL, "http://127.0.0.1:9999/v1")
    assert len(read_tenants_file(config.tenants, "tenants").content.tenants) == 1003
    models = {model.model for model in read_catalog_file(catalog, "catalog").content.models}
    assert {"sim-instant", "sim-small", "flooded-small"} <= models


def test_the_schedule_is_fixed_by_the_rate_and_the_flooder_has_one_of_its_own() -> None:
    plan = due(Case("c", 10, 2, tenants=3, flood_rate=100))
    light = [(at, tenant) for at, tenant in plan if tenant != FLOODER]
    assert [at for at, _ in light] == [n / 10 for n in range(20)]
    assert [tenant for _, tenant in light[:4]] == ["tenant-0000", "tenant-0001", "tenant-0002", "tenant-0000"]
    assert len(plan) - len(light) == 200
    assert plan == sorted(plan)


def test_percentiles_are_values_that_occurred() -> None:
    assert percentiles(range(1, 101), (0, 50, 99, 100)) == {"0": 1, "50": 50, "99": 99, "100": 100}
    assert percentiles([7.0], (50, 99.9)) == {"50": 7.0, "99.9": 7.0}
    assert percentiles([]) == {}


def load(**changes: Any) -> dict[str, Any]:
    case = {"rate": 100.0, "seconds": 10.0}
    whole = {"requests": 1000, "answered": 1000, "statuses": {"succeeded": 1000}, "achieved_per_s": 99.5}
    return {"case": case, **whole, "last_answer_s": 10.1, **changes}


def test_a_rate_is_held_only_without_loss_refusal_or_backlog() -> None:
    level = {"gate": 0.1, "sinks": -0.5}
    assert held(load(), level, 0)
    assert not held(load(answered=999), level, 0)
    assert not held(load(statuses={"succeeded": 990, "rejected:queue_full": 10}), level, 0)
    assert not held(load(last_answer_s=12.5), level, 0)
    assert not held(load(achieved_per_s=95.0), level, 0)


def test_a_rate_is_not_held_while_rows_wait_ever_longer_although_all_is_answered_in_time() -> None:
    assert not held(load(), {"gate": 0.1, "sinks": 1.1}, 0)
    assert not held(load(), {"gate": 0.1, "sinks": math.inf}, 0)
    assert not held(load(), {"gate": 0.1, "sinks": 0.1}, 3)


@pytest.mark.parametrize(("capacity", "found"), [(1300.0, 1250.0), (9000.0, STAIR[-1]), (600.0, 500.0), (100.0, 0.0)])
async def test_the_highest_rate_held_is_looked_for_upwards_and_else_downwards(capacity: float, found: float) -> None:
    tried = []

    async def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    assert await highest_held(holds) == found
    assert len(tried) == len(set(tried))


def test_a_commit_is_dirty_for_what_is_measured_and_not_for_what_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # a hook has another repository there
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert commit_of(tmp_path) == "unknown"
    git("init", "--quiet")
    results, code = tmp_path / "benchmarks" / "results" / "bench.csv", tmp_path / "code.py"
    results.parent.mkdir(parents=True)
    for file in (results, code):
        file.write_text("a")
    git("add", ".")
    git("commit", "--quiet", "--message", "a")
    commit = git("rev-parse", "--short", "HEAD")
    results.write_text("b")
    assert commit_of(tmp_path) == commit
    code.write_text("b")
    assert commit_of(tmp_path) == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("measured", "verdict"), [(5.0, "goal"), (12.0, "first bar"), (16.0, "missed"), (None, "not measured")]
)
def test_a_bar_says_how_far_it_was_met(measured: float | None, verdict: str) -> None:
    assert Bar("latency", "ms", 15, 7, measured).verdict == verdict
    mirrored = None if measured is None else -measured
    assert Bar("rate", "1/s", -15, -7, mirrored, more=True).verdict == verdict


def test_a_figure_is_found_by_its_case_and_name_and_the_last_one_counts() -> None:
    measures = Measures()
    measures.add("a", "ms", p50=1)
    measures.add("a", "ms", p50=2)
    measures.add("memory: gate-1", "MB", resident=90)
    measures.add("memory: kafka", "MB", resident=300)
    assert measures.get("a", "p50") == 2
    assert measures.get("b", "p50") is None
    assert measures.largest("resident", ["memory: gate"]) == 90


def test_costs_of_functions_come_from_folded_stacks_whatever_the_line() -> None:
    lines = [
        "main (app/run.py:1);work (app/stage.py:10) 6",
        "main (app/run.py:1);work (app/stage.py:20);json (lib/codec.py:3) 3",
        "main (app/run.py:2) 1",
        "py-spy says something",
    ]
    stacks = read_folded(lines)
    assert stacks.samples == 10
    own = {cost.function: (cost.own, cost.total) for cost in stacks.costs(10)}
    assert own["work (app/stage.py)"] == (0.6, 0.9)
    assert own["json (lib/codec.py)"] == (0.3, 0.3)
    assert [cost.function for cost in stacks.totals(1, within="codec")] == ["json (lib/codec.py)"]


def test_a_request_s_text_can_hold_whatever_json_holds() -> None:
    value = RequestTemplate(Case("c", 1, 1, model='odd "name"'), "run").request("t", 1)
    assert json.loads(value)["body"]["model"] == 'odd "name"'
