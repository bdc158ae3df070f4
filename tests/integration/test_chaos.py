"""The short form of `make chaos`: real faults on a stack of its own, under load."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import ROOT


@pytest.mark.timeout(300)
def test_killed_stages_a_slow_redis_and_a_killed_broker_lose_and_double_nothing(tmp_path: Path) -> None:
    out = tmp_path / "chaos.csv"
    command = [
        sys.executable,
        "-m",
        "tests.chaos",
        "--short",
        "--state-dir",
        str(tmp_path / "state"),
        "--out",
        str(out),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = list(csv.DictReader(line for line in out.read_text().splitlines() if not line.startswith("#")))
    assert [row["fault"] for row in rows] == ["short", "(all of these)"]
    for row in rows:
        assert row["verdict"] == "held"
        assert int(row["succeeded"]) == int(row["good"]) > 500
        assert (row["lost"], row["duplicates"], row["left_held"], row["missing_rows"]) == ("0", "0", "0", "0")
