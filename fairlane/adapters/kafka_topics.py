"""Creates the topics of the registry on Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import stamina
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from fairlane.errors import Fatal, Retry
from fairlane.schemas.topics import TOPICS, TopicSpec
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

MAX_MESSAGE_BYTES = 4 * 1_048_576
"""A request of the largest size allowed still fits with its envelope, also base64-coded in a dead letter."""
REPLICAS = 3
"""Copies of a partition, or as many as there are brokers."""


async def create_topics(
    bootstrap: str, prefix: str, pools: Iterable[str] = (), *, timeout_s: float = 30.0
) -> tuple[str, ...]:
    """Create what is missing and wait until the brokers show it; returns the names that were created.

    An existing topic is left as it is: its partitions and settings belong to whoever made it.
    Raises Retry if the brokers do not answer in time, Fatal if they refuse a topic.
    """
    wanted = {name: spec for spec in TOPICS for name in _names(spec, prefix, pools)}
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id="fairlane-topics", request_timeout_ms=10_000)
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await admin.start()
                return await _create(admin, wanted)
            finally:
                await admin.close()
    except (KafkaError, OSError, TimeoutError) as failure:
        raise Retry(f"Kafka at {bootstrap}: topics could not be created: {failure!r}", after=1.0) from failure


def topic_config(spec: TopicSpec) -> dict[str, str]:
    """The broker's settings for a topic."""
    config = {
        "cleanup.policy": spec.cleanup,
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        # One clock for all topics, the broker's: a successor finds its predecessor's effects by time, and
        # a producer with an old clock cannot have its records deleted on arrival.
        "message.timestamp.type": "LogAppendTime",
    }
    if spec.retention_ms is not None:
        config["retention.ms"] = str(spec.retention_ms)
    else:
        # Small topics that every process reads from their start: keep them short.
        config["min.cleanable.dirty.ratio"] = "0.1"
        config["segment.ms"] = "3600000"
    return config


def _names(spec: TopicSpec, prefix: str, pools: Iterable[str]) -> list[str]:
    if not spec.per_pool:
        return [spec.full_name(prefix)]
    return [spec.full_name(prefix, pool) for pool in pools]


async def _create(admin: AIOKafkaAdminClient, wanted: dict[str, TopicSpec]) -> tuple[str, ...]:
    missing = [name for name in wanted if name not in set(await admin.list_topics())]
    if not missing:
        return ()
    brokers = len((await admin.describe_cluster())["brokers"])
    response = await admin.create_topics(
        [
            NewTopic(name, wanted[name].partitions, min(REPLICAS, brokers), topic_configs=topic_config(wanted[name]))
            for name in missing
        ]
    )
    created: list[str] = []
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        if error is TopicAlreadyExistsError:
            continue  # another process was quicker
        if code:
            raise Fatal(f"topic {name}: the broker refuses to create it ({error.__name__})")
        created.append(name)
    async for attempt in stamina.retry_context(on=_NotShown, attempts=None, timeout=None, wait_max=0.5):
        with attempt:
            shown = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics(missing)}
            unseen = [name for name in missing if not shown.get(name)]
            if unseen:
                raise _NotShown(unseen)
    _log.info("topics_created", topics=len(created))
    return tuple(created)


class _NotShown(Exception):
    pass
