"""Records as other clients may write them: names of headers in any bytes, batches in any compression."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.ports import Record, TopicPartition
from fairlane.ports.log import Fault
from fairlane.streams.kafka_consumer import KafkaConsumer
from tests.bad_input.raw_batch import CODECS, batch, bomb, compress, record, send_raw
from tests.integration.test_faust_engine import Log, Stage

BAD = b"\xff\xfe name"


class RawName(str):
    """A header name that is written as bytes of its own."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return BAD


async def write(producer: AIOKafkaProducer, topic: str, *names: str) -> None:
    """One batch, a record for each header name."""
    batch = BatchBuilder(100_000, 0)
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 100_000)
    for number, name in enumerate(names):
        batch.append(timestamp=None, key=b"k", value=f"v{number}".encode(), headers=[(name, b"x")])
    await (await producer.send_batch(batch, topic, partition=0))


class Listening:
    async def assigned(self, partitions: frozenset[TopicPartition]) -> None: ...

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None: ...


async def consumed(bootstrap: str, topic: str, count: int) -> list[Record]:
    consumer = KafkaConsumer(bootstrap, f"g{uuid.uuid4().hex}", [topic])
    await consumer.start(Listening())
    records: list[Record] = []
    try:
        while len(records) < count:
            for found in (await consumer.poll(2, 1000)).values():
                records += found
    finally:
        await consumer.stop()
    return records


async def followed(bootstrap: str, topic: str) -> list[Record]:
    reader = KafkaReader(bootstrap)
    await reader.start()
    try:
        ends = await reader.ends(topic)
        return [each async for batch in reader.read(topic, dict.fromkeys(ends, 0), ends) for each in batch]
    finally:
        await reader.stop()


async def test_a_header_name_that_is_no_text_stops_no_reader_and_loses_no_record(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    await write(plain, topic, "a", "b", RawName("?"), "c")
    await write(plain, topic, RawName("?"))
    await write(plain, topic, "d")
    for records in (await consumed(kafka_bootstrap, topic, 6), await followed(kafka_bootstrap, topic)):
        assert [(r.offset, r.value) for r in records] == list(enumerate([b"v0", b"v1", b"v2", b"v3", b"v0", b"v0"]))
        assert [name for r in records for name, _ in r.headers] == [
            "a", "b", "\ufffd\ufffd name", "c", "\ufffd\ufffd name", "d",
        ]  # fmt: skip
        assert {value for r in records for _, value in r.headers} == {b"x"}


async def test_a_header_name_that_is_no_text_does_not_stop_the_gates_engine(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer, tmp_path: Path
) -> None:
    await write(plain, topic, "a", RawName("?"), "b")
    reader, stage, stopping = KafkaReader(kafka_bootstrap), Stage(), asyncio.Event()
    await reader.start()
    log = Log(kafka_bootstrap, tmp_path, reader, plain, topic)
    running = asyncio.create_task(log.engine(stage).run(stopping))
    await stage.until(lambda: len(stage.delivered) == 3)
    stopping.set()
    await running
    await reader.stop()
    assert stage.delivered == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_records_in_any_compression_of_the_protocol_are_read(
    kafka_bootstrap: str, topic: str, codec: str
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, compression_type=codec) as producer:
        await producer.send_and_wait(topic, b"some text " * 1000, partition=0)
    [record] = await consumed(kafka_bootstrap, topic, 1)
    assert record.value == b"some text " * 1000


@pytest.mark.parametrize("codec", CODECS)
async def test_a_compressed_bomb_becomes_an_unreadable_record_and_what_follows_is_read(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer, codec: str
) -> None:
    await plain.send_and_wait(topic, b"before", partition=0)
    await send_raw(plain, topic, bomb(codec, 60_000_000), 1)
    await plain.send_and_wait(topic, b"after", partition=0)
    for records in (await consumed(kafka_bootstrap, topic, 3), await followed(kafka_bootstrap, topic)):
        assert [(r.offset, r.value, r.fault) for r in records] == [
            (0, b"before", None), (1, None, Fault.TOO_LARGE), (2, b"after", None),
        ]  # fmt: skip
        assert records[1].key is None
        assert records[0].timestamp_ms <= records[1].timestamp_ms <= records[2].timestamp_ms


async def test_every_record_of_a_bomb_is_answered_for_and_the_engine_reads_on(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer, tmp_path: Path
) -> None:
    payload = b"".join(record(number, bytes(7_000_000)) for number in range(5))
    await send_raw(plain, topic, batch(compress("zstd", payload), 5, codec=CODECS["zstd"]), 5)
    await plain.send_and_wait(topic, b"after", partition=0)
    reader, stage, stopping = KafkaReader(kafka_bootstrap), Stage(), asyncio.Event()
    await reader.start()
    running = asyncio.create_task(Log(kafka_bootstrap, tmp_path, reader, plain, topic).engine(stage).run(stopping))
    await stage.until(lambda: len(stage.delivered) == 6)
    stopping.set()
    await running
    await reader.stop()
    assert stage.delivered == [(0, offset) for offset in range(6)]
    assert [r.fault for r in await consumed(kafka_bootstrap, topic, 6)] == [Fault.TOO_LARGE] * 5 + [None]


async def test_a_compressed_batch_with_a_header_name_that_is_no_text_is_read_within_the_bound(
    kafka_bootstrap: str, topic: str, plain: AIOKafkaProducer
) -> None:
    payload = b"".join(record(number, b"v%d" % number, headers=[(BAD, b"x")]) for number in range(3))
    await send_raw(plain, topic, batch(compress("zstd", payload), 3, codec=CODECS["zstd"]), 3)
    await send_raw(plain, topic, bomb("zstd", 60_000_000), 1)
    records = await consumed(kafka_bootstrap, topic, 4)
    assert [r.value for r in records] == [b"v0", b"v1", b"v2", None]


@pytest.mark.parametrize(
    "content",
    [
        batch(record(0, b"v"), 1, crc=1),
        batch(record(0, b"v"), 5),
        batch(record(0, b"v"), 1, last_delta=4),
        batch(b"no codec wrote this", 1, codec=CODECS["zstd"]),
        batch(record(0, b"v") + b"rest", 1),
    ],
    ids=["bad checksum", "too few records", "too few offsets", "damaged compression", "trailing bytes"],
)
async def test_the_broker_refuses_a_batch_that_lies_so_that_no_reader_meets_it(
    topic: str, plain: AIOKafkaProducer, content: bytes
) -> None:
    with pytest.raises(KafkaError):
        await send_raw(plain, topic, content, 1)
    assert (await plain.send_and_wait(topic, b"after", partition=0)).offset == 0
