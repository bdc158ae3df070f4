"""Ctrl-C of the demo: the first stops in order and says what it waits for, the second ends at once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from fairlane.cli.demo import Stop
from fairlane.devstack.demo.own_stack import DRAIN_MS, demo_settings
from fairlane.settings import Settings


def test_the_first_signal_cancels_and_tells_the_second_hurries(capsys: pytest.CaptureFixture[str]) -> None:
    happened: list[str] = []
    stop = Stop(lambda: happened.append("hurry"), 8.0)
    stop(signal.SIGINT, lambda: happened.append("cancel"))
    assert happened == ["cancel"]
    told = capsys.readouterr().err
    assert "the stages have 8 s to finish or hand back what is in flight" in told
    assert "Ctrl-C" in told
    stop(signal.SIGTERM, lambda: happened.append("cancel"))
    assert happened == ["cancel", "hurry"]
    assert stop.signal == signal.SIGINT


def test_the_demo_drains_for_seconds_unless_a_shorter_time_is_set(tmp_path: Path) -> None:
    own = demo_settings(Settings(state_dir=str(tmp_path)), "demo-1")
    assert own.drain_timeout_ms == DRAIN_MS <= 10_000
    assert demo_settings(Settings(state_dir=str(tmp_path), drain_timeout_ms=100), "demo-1").drain_timeout_ms == 100
