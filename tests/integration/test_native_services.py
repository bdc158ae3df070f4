"""The services the other integration tests stand on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from fairlane.adapters.kafka_topics import create_topics
from fairlane.devstack.artifacts import cache_path, kafka_libs, redis_server
from fairlane.devstack.java import find_java
from fairlane.devstack.kafka_service import kafka_answers, kafka_launch
from fairlane.devstack.native import native_redis
from fairlane.devstack.port_choice import free_port
from fairlane.devstack.process import start
from fairlane.devstack.redis_service import redis_answers, redis_launch
from fairlane.schemas.topics import TENANTS


async def test_the_broker_answers_for_metadata(kafka_bootstrap: str) -> None:
    assert await kafka_answers(kafka_bootstrap)


async def test_redis_answers_a_ping(redis_url: str) -> None:
    assert await redis_answers(redis_url)


def test_a_native_service_ends_with_its_block_even_after_a_failure(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    children: list[psutil.Process] = []

    def use_it_and_fail() -> None:
        with native_redis(tmp_path):
            children.extend(set(psutil.Process().children()) - before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_it_and_fail()
    (child,) = children
    assert not child.is_running()


async def test_a_broker_killed_with_minus_9_comes_back_on_its_data_also_at_other_ports(tmp_path: Path) -> None:
    java, libs = find_java(), kafka_libs(cache_path(""))
    bodies = []
    for run in range(2):
        port = free_port()
        controller_port = free_port(frozenset({port}))
        launch = await asyncio.to_thread(kafka_launch, java, libs, tmp_path, port, controller_port, "256m")
        broker = start(launch, tmp_path / "kafka.log")
        try:
            await broker.wait_ready(launch, "kafka", 60)
            if run == 0:
                async with AIOKafkaProducer(bootstrap_servers=launch.address) as producer:
                    await create_topics(launch.address, "kept.")
                    await producer.send_and_wait(TENANTS.full_name("kept."), b"body", key=b"k", partition=0)
            else:
                consumer = AIOKafkaConsumer(bootstrap_servers=launch.address, auto_offset_reset="earliest")
                async with consumer:
                    consumer.assign([TopicPartition(TENANTS.full_name("kept."), 0)])
                    async with asyncio.timeout(30):
                        bodies.append((await consumer.getone()).value)
        finally:
            broker.kill()
            await broker.ended()
    assert bodies == [b"body"]


async def test_redis_killed_with_minus_9_comes_back_with_all_it_acknowledged(tmp_path: Path) -> None:
    binary = await asyncio.to_thread(redis_server, cache_path(""))
    found = []
    for run in range(2):
        launch = redis_launch(binary, tmp_path / "data", free_port())
        process = start(launch, tmp_path / "redis.log")
        try:
            await process.wait_ready(launch, "redis", 30)
            async with Redis.from_url(launch.address) as client:
                if run == 0:
                    await client.hset("answered", mapping={"r-1": "results/0/17"})
                else:
                    found.append(await client.hgetall("answered"))
        finally:
            process.kill()
            await process.ended()
    assert found == [{b"r-1": b"results/0/17"}]
