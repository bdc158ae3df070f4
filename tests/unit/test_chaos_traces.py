"""What a fault leaves behind: a row of `make chaos` whose fault did nothing is broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairlane.devstack.identity import ProcessIdentity
from tests.chaos import disk, faults_disk, faults_kill, faults_pause
from tests.chaos.fault import Scene, Step
from tests.chaos.traces import (
    events_since,
    felt_by_broker,
    felt_by_clickhouse,
    grown,
    lines_since,
    metric_sum,
    sizes,
    taken_over,
)

EXPOSITION = """
# TYPE fairlane_sink_inserts_total counter
fairlane_sink_inserts_total{table="requests",outcome="ok"} 7.0
fairlane_sink_inserts_total{table="requests",outcome="retry"} 2.0
fairlane_sink_inserts_total{table="attempts",outcome="retry"} 3.0
"""
BEFORE = {("lanes", 0): "worker-1-aa", ("lanes", 1): "worker-1-aa", ("lanes", 2): "worker-2-bb"}


def process(pid: int) -> ProcessIdentity:
    return ProcessIdentity(pid, str(pid))


def test_a_metric_is_summed_over_the_labels_nobody_asked_for() -> None:
    assert metric_sum(EXPOSITION, "sink_inserts_total", outcome="retry") == 5.0
    assert metric_sum(EXPOSITION, "sink_inserts_total", table="requests") == 9.0
    assert metric_sum(EXPOSITION, "store_rebuilds_total") == 0.0


def test_a_counter_of_a_process_that_was_started_again_began_at_zero() -> None:
    before = {"sinks-1": (process(1), 5.0), "sinks-2": (process(2), 5.0)}
    assert grown(before, {"sinks-1": (process(1), 6.0), "sinks-2": (process(3), 2.0)}) == 3.0
    assert grown(before, {"sinks-1": (process(1), 5.0)}) == 0.0


def test_lines_from_before_the_fault_are_no_trace_of_it(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    log.write_text("No space left on device\n")
    begin = log.stat().st_size
    assert lines_since(log, begin, "No space left") == []
    with log.open("a") as file:
        file.write("java.io.IOException: No space left on device\nother\n")
    assert len(lines_since(log, begin, "No space left")) == 1


def test_partitions_are_taken_over_when_another_member_has_them() -> None:
    assert taken_over(BEFORE, BEFORE, "worker-1") == (2, 0)
    assert taken_over(BEFORE, BEFORE | {("lanes", 0): "worker-2-bb"}, "worker-1") == (2, 1)
    assert taken_over(BEFORE, dict.fromkeys(BEFORE, "worker-2-bb"), "worker-1") == (2, 2)
    assert taken_over(BEFORE, {}, "worker-1") == (2, 0)
    # Thrown out and back: the id is new, the process is not.
    assert taken_over(BEFORE, dict.fromkeys(BEFORE, "worker-1-cc"), "worker-1") == (2, 0)
    assert taken_over({("lanes", 0): "worker-11-aa"}, {}, "worker-1") == (0, 0)


def test_a_disk_nobody_noticed_was_felt_by_nobody() -> None:
    assert felt_by_broker(0, 0) == felt_by_clickhouse(0.0) == ""
    assert "3 times" in felt_by_broker(3, 0)
    assert "2 failed writes" in felt_by_broker(0, 2)
    assert felt_by_clickhouse(4.0) == "4 inserts failed"


def scene(**stack: Any) -> Scene:
    async def all_ready() -> None:
        return None

    return Scene(SimpleNamespace(all_ready=all_ready, **stack), SimpleNamespace(), lambda _line: None)  # type: ignore[arg-type]


def play(step: Step, played: Scene) -> None:
    async def played_out() -> None:
        await step(played)

    asyncio.run(played_out())


@pytest.mark.parametrize(("what", "broken"), [("", True), ("2 inserts failed", False)])
def test_a_full_disk_that_did_nothing_breaks_its_row(monkeypatch: pytest.MonkeyPatch, what: str, broken: bool) -> None:
    full = False

    @contextmanager
    def filled(_stack: object, _service: str) -> Iterator[None]:
        nonlocal full
        full = True
        yield
        full = False

    async def watched(_scene: Scene) -> Callable[[], Awaitable[str]]:
        async def felt() -> str:
            assert full, "asked when there was space again"
            return what

        return felt

    monkeypatch.setattr(disk, "full", filled)
    monkeypatch.setattr(faults_disk, "FULL_S", 0.0)
    monkeypatch.setitem(faults_disk.WATCHED, "clickhouse", watched)
    played = scene()
    play(faults_disk.disk_full("clickhouse"), played)
    assert [("did nothing" in failure) for failure in played.failures] == [True] * broken


@pytest.mark.parametrize(
    ("owner", "broken"),
    [("worker-2-bb", False), ("worker-1-aa", True)],
)
def test_a_stopped_process_that_kept_its_partitions_was_no_zombie(
    monkeypatch: pytest.MonkeyPatch, owner: str, broken: bool
) -> None:
    stopped: list[str] = []

    async def owners(_bootstrap: str, _group: str) -> dict[tuple[str, int], str]:
        return BEFORE | dict.fromkeys([("lanes", 0), ("lanes", 1)], owner) if stopped else BEFORE

    def stop(names: list[str], _number: int) -> dict[str, ProcessIdentity]:
        stopped.extend(names)
        return {}

    monkeypatch.setattr(faults_pause, "owners", owners)
    monkeypatch.setattr(faults_pause, "PAST_LEASE_S", 0.0)
    monkeypatch.setattr(faults_pause, "ASK_EVERY_S", 0.005)
    settings = SimpleNamespace(kafka_bootstrap="", group_prefix="fairlane.", session_timeout_ms=20)
    played = scene(settings=settings, signal=stop, resume=lambda _stopped: True)
    play(faults_pause.pause("worker", 1), played)
    assert stopped == ["worker-1"]
    assert [("no zombie" in failure) for failure in played.failures] == [True] * broken


@pytest.mark.parametrize("told", [True, False])
def test_an_emptied_store_nobody_said_to_have_filled_again_breaks_its_row(tmp_path: Path, told: bool) -> None:
    log = tmp_path / "gate-1.log"
    rebuilt = json.dumps({"results": 9, "in_flight": 2, "waiting": 1, "event": "store_rebuilt"}, separators=(",", ":"))
    log.write_text(rebuilt + "\n")
    begin = sizes(tmp_path)
    if told:
        with log.open("a") as file:
            file.write(rebuilt + "\n")
    assert len(events_since(tmp_path, begin, "store_rebuilt")) == told
    played = scene()
    asyncio.run(faults_kill.said_rebuilt(played, tmp_path, begin, bound_s=0.0))
    assert played.notes == ["filled again with 9 results, 2 in flight, 1 waiting"] * told
    assert len(played.failures) == (not told)
