"""When aiokafka's sender sends: at once what can be sent, and under load what has gathered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.producer.sender import Sender

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_sending import FEW, gather_between_requests
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


class TestGathering:
    PAUSE_S = 3600.0

    @pytest.fixture
    def gathering(self, producing: Producing, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
        """The publisher gathers between requests; a pause ends when this event is set."""
        over, sleep = asyncio.Event(), asyncio.sleep

        async def pause(seconds: float) -> None:
            await (over.wait() if seconds > 1 else sleep(seconds))

        monkeypatch.setattr(asyncio, "sleep", pause)
        gather_between_requests(producing.publisher._producer, self.PAUSE_S)
        return over

    async def test_a_request_of_several_records_is_followed_by_a_pause(
        self, producing: Producing, gathering: asyncio.Event
    ) -> None:
        first = [producing.send(0) for _ in range(FEW)]
        await settle()
        producing.answer(1)
        await asyncio.gather(*first)
        later = [producing.send(0), producing.send(0)]
        await settle()
        assert len(producing.requests) == 1, "the acknowledgements came, and yet nothing more is sent"
        gathering.set()
        await settle()
        producing.answer(1)
        await asyncio.gather(*later)
        assert [batch.record_count for _, batches in producing.requests for batch in batches.values()] == [FEW, 2]

    async def test_a_request_of_fewer_is_not(self, producing: Producing, gathering: asyncio.Event) -> None:
        for _ in range(2):
            acks = [producing.send(0) for _ in range(FEW - 1)]
            await settle()
            producing.answer(1)
            await asyncio.gather(*acks)
            await settle()
        assert len(producing.requests) == 2
        assert not gathering.is_set()

    async def test_another_broker_is_not_waited_for(self, producing: Producing, gathering: asyncio.Event) -> None:
        first = [producing.send(0) for _ in range(FEW)]
        await settle()
        producing.answer(1)
        await asyncio.gather(*first)
        other = producing.send(1)
        await settle()
        producing.answer(2)
        assert (await other).partition == 1
        gathering.set()
