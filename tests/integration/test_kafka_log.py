"""Kafka keeps the contract of every log, and what only a real broker can show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.adapters.kafka_topics import create_topics
from fairlane.errors import Poison, Retry
from fairlane.ports import Outgoing, Record
from fairlane.schemas.topics import LANES, RESULTS, TOPICS
from fairlane.streams.kafka_consumer import KafkaConsumer
from tests.contract.log_contract import ConsumerContract, PublisherContract, ReaderContract
from tests.contract.log_under_test import Listener, Members, members, read_all, write
from tests.integration.kafka_log import KafkaLogUnderTest

__all__ = ["members"]

NOBODY = "127.0.0.1:1"


@pytest.fixture
async def log(kafka_bootstrap: str) -> AsyncIterator[KafkaLogUnderTest]:
    async with KafkaLogUnderTest(kafka_bootstrap) as under_test:
        yield under_test


class TestKafkaPublisher(PublisherContract):
    async def test_a_full_buffer_is_a_retry_and_drains(self, kafka_bootstrap: str, log: KafkaLogUnderTest) -> None:
        topic = await log.topic(1)
        publisher = KafkaPublisher(kafka_bootstrap, "small", buffer_bytes=10_000)
        await publisher.start()
        outcomes = await asyncio.gather(
            *(publisher.send(Outgoing(topic, b"k", b"x" * 1_000)) for _ in range(20)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {Record, Retry}
        assert isinstance(await publisher.send(Outgoing(topic, b"k", b"x" * 1_000)), Record)
        await publisher.stop()

    async def test_a_topic_with_a_smaller_limit_refuses_only_the_culprit_of_a_batch(
        self, log: KafkaLogUnderTest
    ) -> None:
        topic = await log.topic(1, max_message_bytes="2000")
        sizes = [500, 500, 500, 5_000, 500, 500, 500]
        outcomes = await asyncio.gather(
            *(log.publisher.send(Outgoing(topic, b"%d" % i, b"x" * size)) for i, size in enumerate(sizes)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [Record] * 3 + [Poison] + [Record] * 3
        # A refused batch must not leave a hole in the sequence numbers: the broker would refuse all that follow.
        await write(log, topic, 50)
        keys = [record.key for record in await read_all(log, topic)]
        assert keys[:6] == [b"0", b"1", b"2", b"4", b"5", b"6"]
        assert len(keys) == 56

    async def test_without_an_answer_a_record_fails_in_time_and_later_ones_are_written(
        self, kafka_bootstrap: str, log: KafkaLogUnderTest
    ) -> None:
        topic = await log.topic(1)
        publisher = KafkaPublisher(kafka_bootstrap, "cut-off", delivery_timeout_ms=1_000)
        await publisher.start()
        await publisher.send(Outgoing(topic, b"first", b"v"))
        client = publisher._producer.client
        connected = client.send

        async def cut_off(*_: Any, **__: Any) -> None:
            raise KafkaConnectionError("cut off")

        client.send = cut_off
        futures = [publisher.send(Outgoing(topic, b"during", b"v")) for _ in range(3)]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Retry}
        client.send = connected
        assert (await publisher.send(Outgoing(topic, b"after", b"v"))).key == b"after"
        await publisher.stop()
        # Who was told that they may not be there may have looked, and written them again.
        assert [r.key for r in await read_all(log, topic)] == [b"first", b"after"]

    async def test_a_topic_stays_known_when_another_is_made_later(
        self, kafka_bootstrap: str, log: KafkaLogUnderTest
    ) -> None:
        early = await log.topic(1, name="early")
        publisher = KafkaPublisher(kafka_bootstrap, "idle", delivery_timeout_ms=3_000)
        await publisher.start()
        # What aiokafka does each minute; before the first record is sent it asks for all topics there are.
        await publisher._producer.client.force_metadata_update()
        await publisher.send(Outgoing(early, b"1", b"v"))
        await publisher.send(Outgoing(await log.topic(1, name="late"), b"2", b"v"))
        assert (await publisher.send(Outgoing(early, b"3", b"v"))).offset == 1
        await publisher.stop()

    async def test_stopping_writes_what_is_queued(self, kafka_bootstrap: str, log: KafkaLogUnderTest) -> None:
        topic = await log.topic(1)
        publisher = KafkaPublisher(kafka_bootstrap, "stopping")
        await publisher.start()
        futures = [publisher.send(Outgoing(topic, b"k", b"v")) for _ in range(100)]
        await publisher.stop()
        assert all(future.done() and future.exception() is None for future in futures)
        assert len(await read_all(log, topic)) == 100

    async def test_no_broker_is_a_retry(self) -> None:
        with pytest.raises(Retry, match=NOBODY):
            await KafkaPublisher(NOBODY, "nobody", delivery_timeout_ms=2_000).start()


class TestKafkaReader(ReaderContract):
    async def test_no_broker_is_a_retry(self) -> None:
        with pytest.raises(Retry, match=NOBODY):
            await KafkaReader(NOBODY).start()


class TestKafkaConsumer(ConsumerContract):
    async def test_no_broker_is_a_retry(self) -> None:
        consumer = KafkaConsumer(NOBODY, "g", ["t"])
        with pytest.raises(Retry, match=NOBODY):
            await consumer.start(Listener(consumer.lease_ok))

    async def test_the_partition_that_was_read_last_is_part_of_the_next_fetch(
        self, log: KafkaLogUnderTest, members: Members, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A fetch without it would end long after the test.
        monkeypatch.setattr("fairlane.streams.kafka_consumer.FETCH_WAIT_MS", 60_000)
        topic = await log.topic(2)
        listener, taken = await members.add(log.consumer(log.name("g"), [topic]))
        await members.until(lambda: listener.owned is not None)
        async with asyncio.timeout(30):
            for number in range(5):
                await log.publisher.send(Outgoing(topic, None, b"%d" % number, partition=0))
                await members.until(lambda count=number + 1: len(taken) == count)


async def test_topics_of_the_registry_are_created_once(kafka_bootstrap: str, log: KafkaLogUnderTest) -> None:
    created = await create_topics(kafka_bootstrap, log.prefix, ["sim", "gpu"])
    assert set(created) == {
        spec.full_name(log.prefix, pool) for spec in TOPICS for pool in (["sim", "gpu"] if spec.per_pool else [None])
    }
    assert await log.publisher.partitions(LANES.full_name(log.prefix, "gpu")) == LANES.partitions
    assert await create_topics(kafka_bootstrap, log.prefix, ["sim", "gpu"]) == ()
    assert await create_topics(kafka_bootstrap, log.prefix, ["more"]) == (
        log.prefix + "lanes.more",
        log.prefix + "inbox.more",
    )
    large = await log.publisher.send(Outgoing(RESULTS.full_name(log.prefix), b"k", b"x" * 2_900_000))
    assert large.offset == 0


async def test_creating_topics_without_a_broker_is_a_retry() -> None:
    with pytest.raises(Retry, match=NOBODY):
        await create_topics(NOBODY, "x.", timeout_s=3)
