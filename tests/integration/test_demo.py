"""`fairlane demo` as a stranger runs it, shortened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


def test_a_short_demo_on_given_services_passes_its_checks_and_leaves_a_report(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "FAIRLANE_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "FAIRLANE_REDIS_URL": redis_url,
        "FAIRLANE_CLICKHOUSE_URL": clickhouse_url,
        "FAIRLANE_STATE_DIR": str(tmp_path),
    }

    done = subprocess.run(
        [sys.executable, "-m", "fairlane", "demo", "--seconds", "10", "--json", "--out", str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    outcome = json.loads(done.stdout)
    assert outcome["passed"]
    assert all(check["passed"] for check in outcome["checks"])
    tenants = {row["tenant"]: row for row in outcome["tables"]["Per tenant"]}
    assert set(tenants) == {"crawler", "search", "support", "mobile", "research"}
    assert tenants["crawler"]["requests"] > 20 * tenants["search"]["requests"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "checks hold" in page
    assert "waiting for the last answers" in done.stderr


@pytest.mark.parametrize("interruptions", [1, 2])
def test_an_interrupted_demo_stops_everything_it_started(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path: Path, interruptions: int
) -> None:
    environment = {
        **os.environ,
        "FAIRLANE_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "FAIRLANE_REDIS_URL": redis_url,
        "FAIRLANE_CLICKHOUSE_URL": clickhouse_url,
        "FAIRLANE_STATE_DIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "fairlane", "demo", "--seconds", "60", "--no-open"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stderr is not None
        next(line for line in demo.stderr if "replaying the trace" in line)
        state = json.loads((tmp_path / "demo" / "state.json").read_text())
        started = [psutil.Process(row["identity"]["pid"]) for row in state["processes"]]
        demo.send_signal(signal.SIGINT)
        told = next(line for line in demo.stderr if "finish or hand back what is in flight" in line)
        if interruptions == 2:
            demo.send_signal(signal.SIGINT)
        told += demo.stderr.read()

    assert demo.returncode == 130, told
    assert len(started) >= 7
    if interruptions == 1:
        assert "gate-1: stopped" in told
    assert [process.pid for process in started if process.is_running()] == []
