"""What the Faust engine relies on in Faust, and what it keeps Faust from doing. Nothing is started."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.consumer import Consumer
from faust.types import TP

from fairlane.streams.engines.faust_app import EngineApp, build_app
from fairlane.streams.engines.faust_consumer import (
    FETCH_WAIT_MS,
    GATHERED_BYTES,
    GATHERING_FETCH_WAIT_MS,
    BatchConsumer,
    BatchConsumerThread,
)

HEAD = TP("requests", 0)


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[EngineApp]:
    async def nothing(*_: Any) -> None: ...

    feed: Any = SimpleNamespace(commit=nothing, broker_gathers=False, committed_only=False)
    made = build_app(
        feed=feed,
        on_crash=lambda _: None,
        on_assigned=nothing,
        process=nothing,
        stage_name="gate",
        bootstrap="127.0.0.1:1,127.0.0.1:2",
        group="fairlane.gate",
        topics=["requests"],
        instance="gate-0",
        commit_interval_ms=500,
        session_timeout_ms=10_000,
        data_dir=tmp_path / "faust",
    )
    yield made
    # Faust makes the loop of the consumer's thread at once, and closes it when the thread ends.
    made.consumer._thread.thread_loop.close()


def account(acked: list[int], committed: int | None) -> Any:
    """As much of a Faust consumer as its commit rule looks at."""
    return SimpleNamespace(
        _acked={HEAD: acked}, _acked_index={HEAD: set(acked)}, _gap={HEAD: ()},
        _committed_offset={HEAD: committed},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("acked", "committed", "commits"), [([1, 2, 3], None, 4), ([1, 2, 3], 0, 4), ([2586, 2587], 2585, 2588)]
)
def test_stock_faust_commits_past_an_unfinished_head(acked: list[int], committed: int | None, commits: int) -> None:
    # faust-streaming issue 606. When this fails, upstream has repaired its rule: say so in the ADR about engines.
    assert Consumer._new_offset(account(acked, committed), HEAD) == commits


async def test_our_consumer_never_commits_by_that_rule(app: EngineApp) -> None:
    consumer = app.consumer
    assert isinstance(consumer, BatchConsumer)
    for name, value in vars(account([1, 2, 3], None)).items():
        setattr(consumer, name, value)
    assert consumer._new_offset(HEAD) is None


async def test_faust_keeps_no_account_of_acknowledgements(app: EngineApp) -> None:
    (agent,) = app.agents.values()
    assert agent.channel.acks is False


@pytest.fixture
def misleading_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEB_ENABLED", "TOPIC_ALLOW_DECLARE"):
        monkeypatch.setenv(name, "1")
    for name in ("BROKER_SESSION_TIMEOUT", "APP_ID_FORMAT", "BROKER_COMMIT_INTERVAL", "STREAM_BUFFER_MAXSIZE"):
        monkeypatch.setenv(name, "77")


async def test_no_variable_of_the_environment_changes_the_application(
    misleading_environment: None, app: EngineApp
) -> None:
    conf = app.conf
    assert conf.id == "fairlane.gate"
    assert conf.broker_session_timeout == 10
    assert conf.broker_commit_interval == 0.5
    assert conf.consumer_group_instance_id == "gate-0"
    assert conf.stream_buffer_maxsize > 10_000
    assert not conf.web_enabled
    assert not conf.topic_allow_declare
    assert [str(url) for url in conf.broker] == ["kafka://127.0.0.1:1", "kafka://127.0.0.1:2"]


async def test_only_what_consuming_needs_is_started(app: EngineApp) -> None:
    names = [type(service).__name__ for service in app.boot_strategy.server()]
    assert names == ["BatchConsumer", "AgentManager", "Conductor", "_Tables"]


async def test_a_fetch_without_data_ends_soon(app: EngineApp) -> None:
    driver = app.consumer._thread._create_consumer(loop=asyncio.get_running_loop())
    driver._closed = True  # it was never opened; otherwise it complains when it is collected
    assert driver._fetch_max_wait_ms == FETCH_WAIT_MS
    assert driver._session_timeout_ms == 10_000
    assert driver._group_instance_id == "gate-0"


async def test_where_nobody_waits_the_broker_gathers_records_for_a_moment(app: EngineApp) -> None:
    gathering: Any = app.feed
    gathering.broker_gathers = True
    driver = app.consumer._thread._create_worker_consumer(app.transport)
    driver._closed = True  # it was never opened; otherwise it complains when it is collected
    assert (driver._fetch_min_bytes, driver._fetch_max_wait_ms) == (GATHERED_BYTES, GATHERING_FETCH_WAIT_MS)
    assert driver._isolation_level == "read_uncommitted"


async def test_where_tenants_write_aborted_transactions_are_left_out(app: EngineApp) -> None:
    reading: Any = app.feed
    reading.committed_only = True
    driver = app.consumer._thread._create_worker_consumer(app.transport)
    driver._closed = True  # it was never opened; otherwise it complains when it is collected
    assert driver._isolation_level == "read_committed"


@pytest.fixture
def before(tmp_path: Path) -> tuple[object, ...]:
    return around(tmp_path)


def around(directory: Path) -> tuple[object, ...]:
    """What of the process a library may not change behind our back."""
    handlers = list(logging.getLogger().handlers)
    return handlers, signal.getsignal(signal.SIGTERM), set(threading.enumerate()), list(directory.iterdir())


async def test_building_an_application_touches_neither_the_log_nor_signals_nor_files(
    before: tuple[object, ...], app: EngineApp, tmp_path: Path
) -> None:
    assert isinstance(app.consumer, BatchConsumer)
    assert around(tmp_path) == before


def test_the_engine_can_be_imported_without_faust() -> None:
    program = "import sys, fairlane.streams.engines.faust; sys.exit('faust' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_a_thread_that_outlives_its_engine_leaves_nothing_unawaited(recwarn: pytest.WarningsRecorder) -> None:
    async def at_once(_seconds: float) -> None: ...

    ended = asyncio.new_event_loop()
    ended.close()
    thread = BatchConsumerThread.__new__(BatchConsumerThread)
    thread.__dict__.update(parent_loop=ended, sleep=at_once)
    await thread._wakeup_timer_in_thread()
    gc.collect()
    assert not [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)]
