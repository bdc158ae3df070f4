"""What other processes learn of a running stack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fairlane.devstack.identity import ProcessIdentity, alive, identify, kill_group
from fairlane.devstack.log_file import bound, tail
from fairlane.devstack.stack_lock import stack_lock
from fairlane.devstack.state import STATE_FILE, ProcessState, StackState, load_state, reap, with_addresses
from fairlane.errors import Fatal, Reject, Retry
from fairlane.settings import Settings

ME = identify(os.getpid())
GONE = ProcessIdentity(os.getpid(), "a process that had this pid before")
ADDRESSES = {"kafka": "h:1", "redis": "redis://h:2/0", "clickhouse": "http://h:3", "simulator": "http://h:4/v1"}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def state_of(supervisor: ProcessIdentity, *processes: ProcessState) -> StackState:
    return StackState(supervisor, "ready", ADDRESSES, processes, {"kafka": 1})


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert ME is not None
    state = state_of(ME, ProcessState("gate-1", "gate", GONE, 17001, True, 2))
    state.save(tmp_path)
    assert load_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"supervisor": {"pid": 1}}'])
def test_a_file_that_is_no_state_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    assert load_state(tmp_path) is None


def test_a_process_is_not_taken_for_another_that_had_its_pid() -> None:
    assert ME is not None
    assert alive(ME)
    assert not alive(GONE)


def test_an_ended_process_is_not_alive_even_before_its_parent_has_looked(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    assert identity is not None
    os.kill(sleeper.pid, 9)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(identity)


def test_what_a_dead_supervisor_left_is_killed_and_nothing_else(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper.pid)
    assert identity is not None
    foreign = replace(identity, started="earlier")
    assert reap(state_of(GONE, ProcessState("other", "", foreign, 1, True, 0))) == []
    assert sleeper.poll() is None
    assert reap(state_of(GONE, ProcessState("gate-1", "gate", identity, 1, True, 0))) == ["gate-1"]
    assert sleeper.wait() == -9
    assert not kill_group(identity)


def test_the_processes_of_a_live_supervisor_are_not_reaped() -> None:
    assert ME is not None
    with pytest.raises(Reject, match="fairlane down"):
        reap(state_of(ME))


def test_addresses_come_from_the_running_stack_where_none_is_set(tmp_path: Path) -> None:
    assert ME is not None
    state_of(ME).save(tmp_path)
    filled = with_addresses(Settings(state_dir=str(tmp_path), redis_url="redis://mine"))
    assert (filled.kafka_bootstrap, filled.redis_url) == ("h:1", "redis://mine")
    assert (filled.clickhouse_url, filled.simulator_url) == ("http://h:3", "http://h:4/v1")


def test_the_addresses_of_a_stack_that_is_down_are_not_used(tmp_path: Path) -> None:
    state_of(GONE).save(tmp_path)
    with pytest.raises(Retry, match="fairlane up"):
        with_addresses(Settings(state_dir=str(tmp_path)))


def test_without_a_stack_what_is_set_is_enough_unless_more_is_needed(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path), kafka_bootstrap="k:9092")
    assert with_addresses(settings) == settings
    with pytest.raises(Retry, match="FAIRLANE_CLICKHOUSE_URL"):
        with_addresses(settings, need=["clickhouse_url"])


def test_one_supervisor_at_a_time_owns_a_state_directory(tmp_path: Path) -> None:
    with stack_lock(tmp_path), pytest.raises(Fatal, match="runs already"), stack_lock(tmp_path):
        pass
    with stack_lock(tmp_path):
        pass


def test_a_log_that_has_grown_too_large_is_moved_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "gate-1.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 10)
        assert not bound(log, 40)
        writer.write(b"last\n")
        assert bound(log, 40)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert log.with_name("gate-1.log.1").read_bytes().endswith(b"last\n")


def test_an_error_shows_the_end_of_the_log_and_where_it_is(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    shown = tail(log, lines=2)
    assert str(log) in shown
    assert shown.endswith("    line 98\n    line 99")
    assert "empty" in tail(tmp_path / "none.log")
