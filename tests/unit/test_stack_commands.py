"""What the stack's commands print and how they exit, without a stack."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlane.cli.main import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, main
from fairlane.devstack.console import ConsoleReport
from fairlane.devstack.doctor import examine
from fairlane.devstack.identity import ProcessIdentity, identify
from fairlane.devstack.running import run_stack
from fairlane.devstack.services import shown
from fairlane.devstack.state import ProcessState, StackState
from fairlane.devstack.status import StackStatus
from fairlane.devstack.supervisor import Supervisor
from fairlane.schemas.catalog import Provider
from fairlane.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("FAIRLANE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_status_without_a_stack_has_the_same_members_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == EXIT_FAILED
    document = json.loads(capsys.readouterr().out)
    assert document == {"kafka": "", "redis": "", "clickhouse": "", "simulator": "", "stages": []}


def test_status_for_people_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == EXIT_FAILED
    captured = capsys.readouterr()
    assert "fairlane up" in captured.err
    assert captured.out.splitlines()[0].split() == ["process", "ready", "pid", "address"]


def test_down_without_a_stack_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert "no stack runs" in capsys.readouterr().err


def test_the_status_document_has_what_scripts_rely_on() -> None:
    me = identify(os.getpid())
    assert me is not None
    addresses = {
        "kafka": "127.0.0.1:1", "redis": "redis://127.0.0.1:2/0",
        "clickhouse": "http://127.0.0.1:3", "simulator": "http://127.0.0.1:4/v1",
    }  # fmt: skip
    gate = ProcessState("gate-1", "gate", ProcessIdentity(77, "x"), 17001, True, 0)
    redis = ProcessState("redis", "", ProcessIdentity(78, "y"), 2, True, 0)
    status = StackStatus.of_state(StackState(me, "ready", addresses, (gate, redis)))
    assert status.ready
    assert status.as_object() == {
        **addresses,
        "stages": [{"stage": "gate", "pid": 77, "ready": True, "metrics": "http://127.0.0.1:17001/metrics"}],
    }
    assert not StackStatus.of_state(StackState(me, "starting", addresses, (gate,))).ready


def test_an_address_is_shown_without_the_password_in_it() -> None:
    assert shown("redis://user:secret@host:6379/0") == "host:6379/0"
    assert shown("host:9092") == "host:9092"


async def test_doctor_on_given_services_asks_for_nothing_native(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answers(name: str, _address: str) -> bool:
        asked.append(name)
        return name != "redis"

    async def providers(_bootstrap: str, _prefix: str) -> list[Provider]:
        return [
            Provider(provider="sim", base_url="http://s:4/v1", key="env:SIM_KEY"),
            Provider(provider="acme", base_url="http://a:5/v1", key="env:ACME_LLM_KEY"),
            Provider(provider="blue", base_url="http://b:6/v1", key="env:BLUE_LLM_KEY"),
        ]

    monkeypatch.setattr("fairlane.devstack.doctor.service_answers", answers)
    monkeypatch.setattr("fairlane.devstack.doctor.applied_providers", providers)
    monkeypatch.delenv("SIM_KEY", raising=False)
    monkeypatch.delenv("ACME_LLM_KEY", raising=False)
    monkeypatch.setenv("BLUE_LLM_KEY", "open-sesame")
    given = Settings(
        kafka_bootstrap="k:1", redis_url="redis://u:secret@r:2", clickhouse_url="http://c:3",
        simulator_url="http://s:4/v1",
    )  # fmt: skip
    findings = {finding.subject: finding for finding in await examine(given)}
    assert not {"Java", "Kafka", "Redis", "ClickHouse's engine"} & set(findings)
    assert set(asked) == {"kafka", "redis", "clickhouse", "simulator"}
    assert [subject for subject in findings if subject.startswith("key of")] == ["key of provider acme"]
    assert "ACME_LLM_KEY is not set" in findings["key of provider acme"].found
    assert "open-sesame" not in str(findings)
    assert findings["FAIRLANE_KAFKA_BOOTSTRAP"].verdict == "ok"
    missing = findings["FAIRLANE_REDIS_URL"]
    assert missing.verdict == "missing"
    assert "unset FAIRLANE_REDIS_URL" in missing.hint
    assert "secret" not in str(findings)


async def test_doctor_says_how_to_get_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    settings = Settings(cache_dir=str(tmp_path / "cache"), free_ports=True)
    findings = {finding.subject: finding for finding in await examine(settings)}
    for subject in ("Java", "Kafka", "Redis", "ClickHouse's engine"):
        assert findings[subject].verdict == "missing", subject
        assert "fairlane[native]" in findings[subject].hint, subject


async def test_doctor_takes_what_can_be_fetched_as_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fairlane.devstack.doctor.redis_on_path", lambda: None)
    settings = Settings(cache_dir=str(tmp_path / "cache"), free_ports=True)
    findings = {finding.subject: finding for finding in await examine(settings)}
    assert findings["Kafka"].verdict == findings["Redis"].verdict == "note"
    assert "fairlane up" in findings["Kafka"].hint


def test_in_a_pipe_steps_of_one_thing_are_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("fairlane.devstack.console.time.monotonic", lambda: now[0])
    with ConsoleReport(live=False) as report:
        for count in range(1, 41):
            report("kafka", f"fetched {count} of 40 files")
            now[0] += 0.125
        report("kafka", "starting")
        report("kafka", "ready", done=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "kafka: fetched 1 of 40 files", "kafka: fetched 17 of 40 files", "kafka: fetched 33 of 40 files",
        "kafka: starting", "kafka: ready",
    ]  # fmt: skip


def test_in_a_terminal_each_part_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReport(live=True) as report:
        report("kafka", "starting")
        report("redis", "starting")
        report("kafka", "ready [127.0.0.1:9092]", done=True)
    shown_at_the_end = capsys.readouterr().err
    assert shown_at_the_end.count("ready [127.0.0.1:9092]") == 1
    report("gate-1", "ended with SIGKILL")
    assert "gate-1: ended with SIGKILL" in capsys.readouterr().err


def test_what_needs_a_stack_is_unreachable_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tenants", "list"]) == EXIT_UNREACHABLE
    assert "run `fairlane up`" in capsys.readouterr().err


def test_a_stage_that_does_not_exist_is_told_before_a_stack_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nosuch"]) == EXIT_USAGE
    assert "there are gate, dispatcher, worker, settle, sinks" in capsys.readouterr().err


class _NeverReady(Supervisor):
    """Is interrupted while it comes up, or after it."""

    def __init__(self, state_dir: Path, number: int, *, ready: bool) -> None:
        super().__init__([], [], state_dir, lambda *_, **__: None, {}, {})
        self._number = number
        self._gets_ready = ready

    async def run(self, stopping: asyncio.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        if self._gets_ready:
            on_ready()
        os.kill(os.getpid(), self._number)
        await asyncio.wait_for(stopping.wait(), 10)


@pytest.mark.parametrize(
    ("number", "ready", "interrupted"),
    [(signal.SIGINT, False, True), (signal.SIGINT, True, False), (signal.SIGTERM, False, False)],
)
def test_ctrl_c_before_all_is_ready_is_an_interruption(
    tmp_path: Path, number: signal.Signals, ready: bool, interrupted: bool
) -> None:
    told = []
    supervisor = _NeverReady(tmp_path, number, ready=ready)
    try:
        run_stack(Settings(state_dir=str(tmp_path)), lambda *_, **__: None, lambda: None, lambda *_: supervisor)
    except KeyboardInterrupt:
        told.append(True)
    assert bool(told) is interrupted
