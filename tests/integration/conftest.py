"""Real services for the integration tests, one of each per session.

A service comes from the address in the environment, else from a container where a Docker engine
answers, else as a native process. It is stopped at the end, and cannot outlive the test run.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaProducer

from fairlane.adapters.kafka_topics import create_topics
from fairlane.devstack.native import native_clickhouse, native_kafka, native_redis
from tests.integration import containers


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a broker. Use topic names of your own."""
    if given := os.environ.get("FAIRLANE_KAFKA_BOOTSTRAP"):
        yield given
        return
    source = containers.kafka() if containers.docker_answers() else native_kafka(tmp_path_factory.mktemp("kafka"))
    with source as address:
        yield address


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``redis://host:port/0``. Use a key prefix of your own."""
    if given := os.environ.get("FAIRLANE_REDIS_URL"):
        yield given
        return
    source = containers.redis() if containers.docker_answers() else native_redis(tmp_path_factory.mktemp("redis"))
    with source as address:
        yield address


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``http://host:port``. Use a database of your own."""
    if given := os.environ.get("FAIRLANE_CLICKHOUSE_URL"):
        yield given
        return
    if containers.docker_answers():
        source = containers.clickhouse()
    else:
        source = native_clickhouse(tmp_path_factory.mktemp("clickhouse"))
    with source as address:
        yield address


@pytest.fixture
async def topic(kafka_bootstrap: str) -> str:
    """The topic of requests of a prefix of its own."""
    prefix = f"t{uuid.uuid4().hex}."
    await create_topics(kafka_bootstrap, prefix)
    return prefix + "requests"


@pytest.fixture
async def plain(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that is not ours, without transactions."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    yield producer
    await producer.stop()
