"""The stack from images, read and not run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from fairlane.devstack.jar_lock import KAFKA_VERSION
from fairlane.devstack.kafka_service import MAX_MESSAGE_BYTES
from fairlane.devstack.stack import stage_counts
from fairlane.settings import Settings
from tests.integration import containers

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^[\w./-]+:\d+\.\d+\.\d+[\w.-]*$")
ONE_OFF = "prepare"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def stage_of(service: dict[str, Any]) -> str | None:
    command = service.get("command", [])
    return str(command[2]) if command[:2] == ["fairlane", "run"] else None


def test_every_image_is_pinned_to_a_full_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert PINNED.match(service["image"]), name
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert bases
    assert all(PINNED.match(base) for base in bases)


def test_images_are_those_of_the_tests_and_of_the_native_stack(services: dict[str, Any]) -> None:
    assert services["kafka"]["image"] == containers.KAFKA_IMAGE == f"apache/kafka:{KAFKA_VERSION}"
    assert services["redis"]["image"] == containers.REDIS_IMAGE
    assert services["clickhouse"]["image"] == containers.CLICKHOUSE_IMAGE


def test_every_service_that_stays_is_asked_for_its_health(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name != ONE_OFF:
            check = service["healthcheck"]
            assert check["test"][0] == "CMD", name
            assert {"interval", "timeout", "retries"} <= set(check), name


def test_nothing_starts_before_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed == ONE_OFF else "service_healthy"
            assert how == {"condition": expected}, name
            assert needed == ONE_OFF or "healthcheck" in services[needed]
        if stage_of(service):
            assert {ONE_OFF, "kafka", "redis"} <= set(service["depends_on"])
    assert set(services[ONE_OFF]["depends_on"]) == {"kafka", "clickhouse", "simulator"}


def test_the_stages_are_those_of_the_native_stack_each_under_its_own_name(services: dict[str, Any]) -> None:
    counts = Counter(stage for service in services.values() if (stage := stage_of(service)))
    assert counts == stage_counts(Settings().stage_processes)
    for name, service in services.items():
        if stage := stage_of(service):
            assert name.startswith(f"{stage}-")
            assert service["environment"]["FAIRLANE_INSTANCE"] == name


def test_every_variable_given_to_our_processes_is_a_setting(services: dict[str, Any]) -> None:
    known = {"FAIRLANE_" + name.upper() for name in Settings.__dataclass_fields__} | {"SIM_KEY"}
    for service in services.values():
        if service["image"].startswith("fairlane:"):
            assert set(service.get("environment", {})) <= known


def test_ports_are_published_on_the_loopback_address_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_a_stopping_stage_is_given_longer_than_its_drain_time(services: dict[str, Any]) -> None:
    for service in services.values():
        if stage_of(service):
            assert int(service["stop_grace_period"].removesuffix("s")) * 1000 > Settings().drain_timeout_ms


def test_the_broker_takes_what_the_native_one_takes_and_creates_no_topic_by_itself(services: dict[str, Any]) -> None:
    environment = services["kafka"]["environment"]
    assert environment["KAFKA_MESSAGE_MAX_BYTES"] == str(MAX_MESSAGE_BYTES)
    assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert len(environment["CLUSTER_ID"]) == 22, "sixteen bytes in base64 without padding"


def test_data_of_the_log_and_of_clickhouse_outlives_a_container(
    compose: dict[str, Any], services: dict[str, Any]
) -> None:
    for name in ("kafka", "clickhouse"):
        volume = services[name]["volumes"][0].split(":")[0]
        assert volume in compose["volumes"]


def test_clickhouse_does_not_fill_the_disk_with_tables_about_itself(services: dict[str, Any]) -> None:
    mounts = [volume.split(":") for volume in services["clickhouse"]["volumes"]]
    (source,) = [m[0] for m in mounts if m[1].startswith("/etc/clickhouse-server/config.d/")]
    tables = {element.tag: element for element in ET.parse(ROOT / source).getroot()}
    for name in ("query_log", "part_log"):
        assert "INTERVAL 3 DAY" in str(tables.pop(name).findtext("ttl"))
    assert {"trace_log", "text_log", "metric_log", "asynchronous_metric_log", "processors_profile_log"} <= set(tables)
    assert all(element.get("remove") == "1" for element in tables.values())


def test_the_image_is_built_from_what_the_package_needs_and_nothing_else() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(allowed) == sorted(name for line in copied for name in line.split())
    assert all((ROOT / name).exists() for name in allowed)
