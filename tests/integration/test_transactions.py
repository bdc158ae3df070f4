"""Requests written in transactions, by another client: committed ones count, aborted ones were never asked for."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from fairlane.adapters.kafka_foreign_records import BATCH_BYTES_MAX
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.agents.effects import first_timestamp
from fairlane.ports import Bounds, Record, Restored, TopicPartition
from fairlane.ports.log import Fault
from fairlane.streams.kafka_consumer import KafkaConsumer
from tests.integration.test_faust_engine import Log, Stage
from tests.integration.test_foreign_records import Listening

WITHIN_S = 20.0


def transactional(bootstrap: str, settings: Mapping[str, Any]) -> Producer:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"x{uuid.uuid4().hex}", **settings})
    producer.init_transactions(WITHIN_S)
    return producer


def written(producer: Producer, topic: str, values: list[bytes], *, commit: bool) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(WITHIN_S) == 0
    if commit:
        producer.commit_transaction(WITHIN_S)
    else:
        producer.abort_transaction(WITHIN_S)


async def consumed(bootstrap: str, topic: str, last: bytes) -> list[Record]:
    """Whatever comes until a record with that value."""
    consumer = KafkaConsumer(bootstrap, f"g{uuid.uuid4().hex}", [topic], committed_only=True)
    await consumer.start(Listening())
    records: list[Record] = []
    try:
        async with asyncio.timeout(WITHIN_S):
            while not records or records[-1].value != last:
                for found in (await consumer.poll(2, 1000)).values():
                    records += found
    finally:
        await consumer.stop()
    return records


async def test_what_a_transaction_aborted_is_not_read_and_what_one_committed_is(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    producer = await asyncio.to_thread(transactional, kafka_bootstrap, {})
    await plain.send_and_wait(topic, b"before", partition=0)
    await asyncio.to_thread(written, producer, topic, [b"never", b"asked"], commit=False)
    await asyncio.to_thread(written, producer, topic, [b"asked for"], commit=True)
    await asyncio.to_thread(written, producer, topic, [b"never again"], commit=False)
    await plain.send_and_wait(topic, b"after", partition=0)
    records = await consumed(kafka_bootstrap, topic, b"after")
    assert [record.value for record in records] == [b"before", b"asked for", b"after"]


async def test_the_gates_other_engine_leaves_aborted_requests_out_as_well(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer, tmp_path: Path
) -> None:
    producer = await asyncio.to_thread(transactional, kafka_bootstrap, {})
    await asyncio.to_thread(written, producer, topic, [b"never", b"asked"], commit=False)
    await asyncio.to_thread(written, producer, topic, [b"asked for"], commit=True)
    await plain.send_and_wait(topic, b"after", partition=0)
    reader, stage, stopping = KafkaReader(kafka_bootstrap), Stage(), asyncio.Event()
    await reader.start()
    engine = Log(kafka_bootstrap, tmp_path, reader, plain, topic).engine(stage, committed_only=True)
    running = asyncio.create_task(engine.run(stopping))
    # Offsets 0 and 1 were aborted, and the ends of both transactions take one each.
    await stage.until(lambda: len(stage.delivered) == 2)
    stopping.set()
    await running
    await reader.stop()
    assert stage.delivered == [(0, 3), (0, 5)]


async def test_a_bomb_in_an_aborted_transaction_is_nobodys_request(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    large = {"compression.type": "zstd", "message.max.bytes": 50_000_000}
    producer = await asyncio.to_thread(transactional, kafka_bootstrap, large)
    bomb = bytes(BATCH_BYTES_MAX + 1)
    await asyncio.to_thread(written, producer, topic, [bomb], commit=False)
    await asyncio.to_thread(written, producer, topic, [bomb], commit=True)
    await plain.send_and_wait(topic, b"after", partition=0)
    records = await consumed(kafka_bootstrap, topic, b"after")
    assert [(record.offset, record.fault) for record in records] == [(2, Fault.TOO_LARGE), (4, None)]


async def test_an_open_transaction_holds_others_back_no_longer_than_its_timeout(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    producer = await asyncio.to_thread(transactional, kafka_bootstrap, {"transaction.timeout.ms": 1000})
    producer.begin_transaction()
    producer.produce(topic, b"left open", partition=0)
    assert await asyncio.to_thread(producer.flush, WITHIN_S) == 0
    await plain.send_and_wait(topic, b"behind it", partition=0)
    assert [record.value for record in await consumed(kafka_bootstrap, topic, b"behind it")] == [b"behind it"]


async def test_a_range_of_what_is_committed_leaves_out_what_was_aborted_and_ends_where_one_is_open(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    producer = await asyncio.to_thread(transactional, kafka_bootstrap, {})
    await asyncio.to_thread(written, producer, topic, [b"aborted"], commit=False)
    await asyncio.to_thread(written, producer, topic, [b"committed"], commit=True)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    assert await asyncio.to_thread(producer.flush, WITHIN_S) == 0
    await plain.send_and_wait(topic, b"behind it", partition=0)
    reader = KafkaReader(kafka_bootstrap)
    await reader.start()
    try:
        ends = {0: (await reader.ends(topic))[0]}
        found = reader.read(topic, {0: 0}, ends, committed_only=True)
        assert [record.value async for batch in found for record in batch] == [b"committed"]
        nothing = reader.read(topic, {0: 4}, ends, committed_only=True)
        assert [record.value async for batch in nothing for record in batch] == []
        every = reader.read(topic, {0: 0}, ends)
        assert len([record async for batch in every for record in batch]) == 4
        stamp = await first_timestamp(reader, {TopicPartition(topic, 0): Restored(0, ends[0])}, committed_only=True)
        [committed] = [r async for b in reader.read(topic, {0: 2}, {0: 3}) for r in b]
        assert stamp == committed.timestamp_ms
    finally:
        await reader.stop()
        await asyncio.to_thread(producer.abort_transaction, WITHIN_S)


async def test_a_position_behind_an_open_transaction_is_gone_on_from(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    """Committed by one who reads uncommitted records: the topic is no other because it ends sooner for us."""
    producer = await asyncio.to_thread(transactional, kafka_bootstrap, {})
    await plain.send_and_wait(topic, b"before", partition=0)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    assert await asyncio.to_thread(producer.flush, WITHIN_S) == 0
    await plain.send_and_wait(topic, b"behind it", partition=0)
    owned = asyncio.Event()

    class Told:
        async def assigned(self, _partitions: frozenset[TopicPartition]) -> None:
            owned.set()

        async def revoked(self, _partitions: frozenset[TopicPartition]) -> None:
            owned.clear()

    consumer = KafkaConsumer(kafka_bootstrap, f"g{uuid.uuid4().hex}", [topic], committed_only=True)
    await consumer.start(Told())
    try:
        async with asyncio.timeout(WITHIN_S):
            while not owned.is_set():
                await consumer.poll(0, 50)
        tp = TopicPartition(topic, 0)
        assert await consumer.bounds(frozenset({tp})) == {tp: Bounds(0, 1, 3)}
    finally:
        await consumer.stop()
        await asyncio.to_thread(producer.abort_transaction, WITHIN_S)
