"""``fairlane up`` with everything native and real stages, as people start it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairlane.devstack.identity import identify
from fairlane.devstack.log_file import tail
from fairlane.devstack.port_choice import bindable
from fairlane.devstack.state import load_state

# The time of a first run is in it: fetching what is missing.
pytestmark = pytest.mark.timeout(420)
BOUND_S = 60.0

Fairlane = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLANE_")}
    given = {name: os.environ[name] for name in ("FAIRLANE_CACHE_DIR",) if name in os.environ}
    return {
        **kept, **given,
        "FAIRLANE_STATE_DIR": str(tmp_path / "state"),
        "FAIRLANE_FREE_PORTS": "1",
        "FAIRLANE_KAFKA_HEAP": "256m",
        "FAIRLANE_STAGE_PROCESSES": "gate=1,sinks=1",
    }  # fmt: skip


@pytest.fixture
def fairlane(environment: dict[str, str], tmp_path: Path) -> Iterator[Fairlane]:
    """Run a command; the stack is taken down at the end, whatever happened."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fairlane", *arguments],
            env={**environment, **variables}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    yield run
    run("down")


def wait_until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen" + tail(log)
        time.sleep(0.05)


def family_of(state_dir: Path) -> list[int]:
    state = load_state(state_dir)
    assert state is not None
    supervisor = psutil.Process(state.supervisor.pid)
    return [supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))]


def test_a_stack_comes_up_is_mended_and_leaves_nothing_even_when_its_supervisor_is_killed(
    fairlane: Fairlane, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    log = state_dir / "logs" / "supervisor.log"
    up = fairlane("up", "--detach", "--json")
    assert up.returncode == 0, up.stderr
    status = fairlane("status", "--json")
    assert status.returncode == 0, status.stdout + status.stderr
    document: dict[str, Any] = json.loads(status.stdout)
    assert document == json.loads(up.stdout)
    assert [stage["stage"] for stage in document["stages"]] == ["gate", "sinks"]
    gate = psutil.Process(document["stages"][0]["pid"])
    assert " ".join(gate.cmdline()).endswith("fairlane run gate")

    # Something can be sent at once: tenants and a catalog are applied, the simulator is where it says.
    assert "acme" in fairlane("tenants", "list").stdout
    assert document["simulator"] in fairlane("catalog", "list", "--json").stdout

    again = fairlane("up", "--detach")
    assert again.returncode == 1
    assert "runs already" in again.stderr

    os.kill(gate.pid, signal.SIGKILL)

    def mended() -> bool:
        seen = json.loads(fairlane("status", "--json").stdout)["stages"][0]
        return bool(seen["pid"] != gate.pid and seen["ready"])

    wait_until(mended, log)

    state = load_state(state_dir)
    assert state is not None
    family = family_of(state_dir)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    wait_until(lambda: all(identify(pid) is None for pid in family), log)
    assert fairlane("status").returncode == 1

    # The next one finds the log, the tables and its ports.
    second = fairlane("up", "--detach", "--json")
    assert second.returncode == 0, second.stderr
    services = ("kafka", "redis", "clickhouse", "simulator")
    after = json.loads(second.stdout)
    assert [after[name] for name in services] == [document[name] for name in services]
    family = family_of(state_dir)
    assert fairlane("down").returncode == 0
    assert all(identify(pid) is None for pid in family)
    assert all(bindable(port) for port in state.ports.values())


def test_ctrl_c_in_the_foreground_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    out = tmp_path / "up.log"
    with out.open("wb") as file:
        up = subprocess.Popen(
            [sys.executable, "-m", "fairlane", "up"],
            env={**environment, "FAIRLANE_STAGE_PROCESSES": "gate=0"}, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: up.poll() is not None or b"all is ready" in out.read_bytes(), out)
        assert up.poll() is None, tail(out)
        family = family_of(state_dir)
        # A terminal sends it to the whole foreground group.
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(BOUND_S) == 0, tail(out)
    finally:
        up.kill()
        up.wait()
    assert all(identify(pid) is None for pid in family)
    state = load_state(state_dir)
    assert state is not None
    assert state.phase == "down"
    assert all(bindable(port) for port in state.ports.values())


def test_a_given_service_that_is_not_there_is_named_and_nothing_is_left(fairlane: Fairlane, tmp_path: Path) -> None:
    up = fairlane("up", FAIRLANE_REDIS_URL="redis://someone:secret@127.0.0.1:1/0")
    assert up.returncode == 3
    assert "FAIRLANE_REDIS_URL: 127.0.0.1:1/0 does not answer" in up.stderr
    assert "secret" not in up.stderr
    state = load_state(tmp_path / "state")
    assert state is not None
    assert (state.phase, state.processes) == ("failed", ())
