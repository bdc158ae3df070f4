"""The services as containers, where a Docker engine answers."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from fairlane.devstack.port_choice import free_port

# The images of docker-compose.yml; tests/unit/test_compose.py holds them equal.
KAFKA_IMAGE = "apache/kafka:4.3.1"
REDIS_IMAGE = "valkey/valkey:8.1.10-alpine"
CLICKHOUSE_IMAGE = "clickhouse/clickhouse-server:26.9.6.6"


@functools.cache
def docker_answers() -> bool:
    """Whether there is an engine to run containers with."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    try:
        question = [docker, "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(question, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextmanager
def kafka() -> Iterator[str]:
    """A broker; gives ``host:port``."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    # A client must reach the broker under the address it advertises, so the outer port is fixed before the start.
    port = free_port()
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        container = container.with_env(name, value)
    with container as running:
        wait_for_logs(running, "Kafka Server started", timeout=90)
        yield f"127.0.0.1:{port}"


@contextmanager
def redis() -> Iterator[str]:
    """Redis; gives ``redis://host:port/0``."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    with DockerContainer(REDIS_IMAGE).with_exposed_ports(6379) as running:
        wait_for_logs(running, "Ready to accept connections", timeout=60)
        yield f"redis://{running.get_container_host_ip()}:{running.get_exposed_port(6379)}/0"


@contextmanager
def clickhouse() -> Iterator[str]:
    """ClickHouse; gives ``http://user:password@host:port``."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    container = DockerContainer(CLICKHOUSE_IMAGE).with_exposed_ports(8123)
    container = container.with_env("CLICKHOUSE_SKIP_USER_SETUP", "1")
    with container as running:
        wait_for_logs(running, "Ready for connections", timeout=90)
        yield f"http://{running.get_container_host_ip()}:{running.get_exposed_port(8123)}"
