"""What an interruption of `make chaos` leaves: no producer that nobody closed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from fairlane.adapters import kafka_publisher
from tests.chaos import experiment, load


class Publisher:
    """Connects, and then never learns of a topic."""

    def __init__(self, *_arguments: object, **_options: object) -> None:
        self.open = False
        self.connected = asyncio.Event()

    async def start(self) -> None:
        self.open = True

    async def partitions(self, _topic: str) -> int:
        self.connected.set()
        await asyncio.Event().wait()
        return 1

    async def flush(self) -> None:
        return None

    async def stop(self) -> None:
        self.open = False


def test_an_interruption_while_the_load_connects_leaves_no_producer_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "KafkaPublisher", Publisher)
    settings = SimpleNamespace(kafka_bootstrap="", topic_prefix="fairlane.", group_prefix="fairlane.")
    stack: Any = SimpleNamespace(settings=settings)

    async def interrupted() -> bool:
        chaos = experiment.Experiment(stack, lambda _line: None)
        offered = chaos._load("warm-up")
        monkeypatch.setattr(chaos, "_load", lambda _run: offered)
        publisher: Any = offered._publisher
        task = asyncio.create_task(chaos.warm_up())
        await publisher.connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return bool(publisher.open)

    assert asyncio.run(interrupted()) is False


def test_an_interruption_while_a_publisher_connects_closes_its_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Producer:
        def __init__(self, **_options: object) -> None:
            self.stopped = False
            made.append(self)

        async def start(self) -> None:
            await asyncio.Event().wait()

        async def stop(self) -> None:
            self.stopped = True

    made: list[Producer] = []
    monkeypatch.setattr(kafka_publisher, "AIOKafkaProducer", Producer)

    async def interrupted() -> None:
        task = asyncio.create_task(kafka_publisher.KafkaPublisher("host:1", "test").start())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    assert [producer.stopped for producer in made] == [True]
