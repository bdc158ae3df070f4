"""When aiokafka's sender is woken: for what it can send now, and for nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.sender import Sender

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.ports import Outgoing, Record

BROKER_OF = {0: 1, 1: 2}
"""The leader of each partition of the topic."""


class Producing:
    """A publisher over aiokafka's own accumulator and sender; requests go nowhere until they are answered."""

    def __init__(self) -> None:
        self.turns = 0
        self.requests: list[tuple[int, dict[Any, Any]]] = []
        self._answers: dict[int, asyncio.Event] = {}
        cluster = SimpleNamespace(
            leader_for_partition=lambda tp: BROKER_OF[tp.partition], partitions_for_topic=lambda _: BROKER_OF.keys()
        )
        loop = asyncio.get_running_loop()
        self.accumulator = MessageAccumulator(cluster, 131_072, None, 30.0, loop=loop)
        self.sender = Sender(
            SimpleNamespace(cluster=cluster),
            acks=-1,
            txn_manager=None,
            message_accumulator=self.accumulator,
            retry_backoff_ms=100,
            request_timeout_ms=20_000,
        )
        drain = self.accumulator.drain_by_nodes
        self.accumulator.drain_by_nodes = lambda **how: self._counted(drain(**how))
        self.sender._send_produce_req = self._request
        self.publisher = KafkaPublisher("unused", "unused")
        self.publisher._producer = SimpleNamespace(_message_accumulator=self.accumulator, _sender=self.sender)
        self.publisher._loop = loop
        self.publisher._counts["t"] = len(BROKER_OF)

    def send(self, partition: int) -> asyncio.Future[Record]:
        return self.publisher.send(Outgoing("t", b"k", b"v", (), partition))

    def answer(self, broker: int) -> None:
        self._answers.pop(broker).set()

    def _counted(self, drained: Any) -> Any:
        self.turns += 1
        return drained

    async def _request(self, broker: int, batches: dict[Any, Any]) -> None:
        """What the method it replaces does, with an answer that comes when the test says."""
        self.requests.append((broker, batches))
        answered = self._answers[broker] = asyncio.Event()
        await answered.wait()
        for batch in batches.values():
            batch.done(7, 1_700_000_000_000)
        self.sender._in_flight.remove(broker)
        for tp in batches:
            self.sender._muted_partitions.remove(tp)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def producing() -> AsyncIterator[Producing]:
    made = Producing()
    await made.sender.start()
    await settle()
    yield made
    for broker in list(made._answers):
        made.answer(broker)
    await made.sender.close()


async def test_a_record_for_a_busy_broker_wakes_nobody_and_leaves_when_the_broker_has_answered(
    producing: Producing,
) -> None:
    first = producing.send(0)
    await settle()
    turns = producing.turns
    second = producing.send(0)
    await settle()
    assert producing.turns == turns
    producing.answer(1)
    assert (await first).offset == 7
    await settle()
    producing.answer(1)
    assert (await second).offset == 7
    assert [broker for broker, _ in producing.requests] == [1, 1]


async def test_a_record_for_a_broker_that_is_not_busy_leaves_at_once(producing: Producing) -> None:
    waiting = producing.send(0)
    await settle()
    other = producing.send(1)
    await settle()
    assert [broker for broker, _ in producing.requests] == [1, 2]
    producing.answer(2)
    assert (await other).partition == 1
    assert not waiting.done()


async def test_a_record_that_waits_for_a_busy_broker_leaves_with_those_that_come_after_it(
    producing: Producing,
) -> None:
    acks = [producing.send(0)]
    await settle()
    acks += [producing.send(0), producing.send(0)]
    producing.answer(1)
    await settle()
    producing.answer(1)
    await asyncio.gather(*acks)
    assert [batch.record_count for _, batches in producing.requests for batch in batches.values()] == [1, 2]
