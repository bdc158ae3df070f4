"""A file applied on the command line is in force in a follower at once, on a real broker."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.agents.config_follower import ConfigFollower, ConfigView
from fairlane.agents.topic_names import TopicNames
from fairlane.ports import Outgoing
from fairlane.telemetry import NO_METRICS

ROOT = Path(__file__).parents[2]


class Installation:
    """An empty installation of its own on the session's broker."""

    def __init__(self, bootstrap: str, state_dir: Path) -> None:
        self.bootstrap = bootstrap
        self.names = TopicNames(f"config-{uuid.uuid4().hex[:8]}.")
        self._environment = {
            **os.environ,
            "FAIRLANE_KAFKA_BOOTSTRAP": bootstrap,
            "FAIRLANE_TOPIC_PREFIX": self.names.prefix,
            "FAIRLANE_STATE_DIR": str(state_dir),
            "FAIRLANE_SIMULATOR_URL": "http://127.0.0.1:9999/v1",
        }

    async def command(self, *arguments: str, code: int = 0) -> str:
        argv = [sys.executable, "-m", "fairlane", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, argv, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.command(*arguments, "--json"))


@pytest.fixture
def installation(kafka_bootstrap: str, tmp_path: Path) -> Installation:
    return Installation(kafka_bootstrap, tmp_path)


async def test_applied_files_are_followed_live_and_a_bad_record_changes_nothing(
    installation: Installation, tmp_path: Path
) -> None:
    names = installation.names
    await installation.command("tenants", "apply", "-f", str(ROOT / "examples/tenants.yaml"))
    await installation.command("catalog", "apply", "-f", str(ROOT / "examples/catalog.yaml"))

    reader = KafkaReader(installation.bootstrap)
    await reader.start()
    follower = ConfigFollower(reader, names.tenants, names.catalog, NO_METRICS)
    views: asyncio.Queue[ConfigView] = asyncio.Queue()
    stopping = asyncio.Event()
    try:
        await follower.start()
        assert follower.view.version == "t5-c9"
        assert follower.view.tenants["acme"].weight == 2
        assert all(follower.view.fault(model) is None for model in follower.view.models)
        follower.add_listener(views.put_nowait)
        running = asyncio.create_task(follower.run(stopping))

        changed = tmp_path / "tenants.yaml"
        changed.write_text("tenants: [{tenant_id: acme, weight: 5}]")
        await installation.command("tenants", "apply", "-f", str(changed))
        view = await asyncio.wait_for(views.get(), 30)
        assert view.tenants["acme"].weight == 5
        assert view.version == "t6-c9"

        publisher = KafkaPublisher(installation.bootstrap, "stranger")
        await publisher.start()
        await publisher.send(Outgoing(names.tenants, b"acme", b'{"weight":-1}'))
        await publisher.stop()
        view = await asyncio.wait_for(views.get(), 30)
        assert view.tenants["acme"].weight == 5
        assert view.version == "t7-c9"

        await installation.command("tenants", "apply", "-f", str(changed), "--prune")
        while set(view.tenants) != {"acme"}:
            view = await asyncio.wait_for(views.get(), 30)
        stopping.set()
        await asyncio.wait_for(running, 30)
    finally:
        await reader.stop()
    # The unreadable record was written anew, and stands before the tombstones.
    assert [tenant["weight"] for tenant in await installation.json("tenants", "list")] == [5.0]


async def test_a_new_pool_has_its_topics_when_its_record_is_written(installation: Installation, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("pools: [{pool: gpu, slots: 2}]")
    await installation.command("catalog", "apply", "-f", str(catalog))
    rows = {row["topic"]: row for row in await installation.json("topics")}
    assert rows[f"{installation.names.prefix}lanes.gpu"]["partitions"] == 16
    assert rows[installation.names.catalog]["records"] == 1


async def test_a_broker_that_is_away_is_exit_code_3_and_one_line(tmp_path: Path) -> None:
    away = Installation("127.0.0.1:1", tmp_path)
    assert await away.command("tenants", "list", code=3) == ""
