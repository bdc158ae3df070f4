"""What a stack is made of, and how settings reach its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairlane.devstack.clickhouse_service import clickhouse_launch
from fairlane.devstack.first_config import moved_providers
from fairlane.devstack.kafka_service import server_properties
from fairlane.devstack.redis_service import redis_launch
from fairlane.devstack.stack import settings_environment, stage_counts
from fairlane.errors import Reject
from fairlane.schemas.catalog import CatalogEntry, Pool, Provider
from fairlane.schemas.codec import decode
from fairlane.settings import Settings, load_settings
from fairlane.streams.topology import STAGES


def test_the_default_counts_name_every_stage_of_the_topology() -> None:
    assert set(stage_counts(Settings().stage_processes)) == {spec.name for spec in STAGES}


@pytest.mark.parametrize("text", ["gate", "gate=", "gate=-1", "gate=x", "gates=1", "gate=1,gate=2", "gate=101"])
def test_counts_that_are_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(Reject, match="FAIRLANE_STAGE_PROCESSES"):
        stage_counts(text)


def test_a_child_process_reads_the_same_settings(tmp_path: Path) -> None:
    settings = Settings(topic_prefix="t.", free_ports=True, drain_timeout_ms=123, log_level="debug")
    assert load_settings(settings_environment(settings), tmp_path / "none.toml") == settings


def test_every_service_listens_on_loopback_only(tmp_path: Path) -> None:
    properties = dict(line.split("=", 1) for line in server_properties(tmp_path, 1, 2).splitlines())
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2"
    assert properties["auto.create.topics.enable"] == "false"
    redis = list(redis_launch(Path("redis-server"), tmp_path, 3).argv)
    assert redis[redis.index("--bind") + 1] == "127.0.0.1"
    assert redis[redis.index("--save") + 1] == ""
    assert redis[redis.index("--appendonly") + 1] == "yes"
    clickhouse = list(clickhouse_launch(tmp_path, 4).argv)
    assert clickhouse[clickhouse.index("--host") + 1] == "127.0.0.1"


def test_only_providers_at_the_simulators_old_address_move_with_it() -> None:
    def provider(name: str, url: str) -> CatalogEntry:
        return CatalogEntry(
            kind="provider", provider=Provider(provider=name, kind="openai-compatible", base_url=url, key="env:K")
        )

    old, new = "http://127.0.0.1:9999/v1", "http://127.0.0.1:17000/v1"
    applied = [
        provider("sim", old),
        provider("real", "https://models.example/v1"),
        CatalogEntry(kind="pool", pool=Pool(pool="sim", slots=4)),
    ]
    (change,) = moved_providers(applied, old, new)
    assert change.key == "provider/sim"
    assert change.value is not None
    assert decode(CatalogEntry, change.value) == provider("sim", new)
    assert moved_providers(applied, "", new) == ()
    assert moved_providers(applied, old, old) == ()
