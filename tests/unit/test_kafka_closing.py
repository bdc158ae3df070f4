"""A consumer of aiokafka is stopped whatever its brokers do, and its trouble does not look like ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState

from fairlane.adapters.kafka_closing import stop_consumer


class Client:
    """Has no connections, and tells when it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


async def consumer_that_tries_again() -> tuple[Any, Client, asyncio.Task[Any]]:
    """As during an outage: one of its fetches waits to be tried again."""
    client = Client()
    consumer = AIOKafkaConsumer.__new__(AIOKafkaConsumer)
    fetcher = Fetcher.__new__(Fetcher)
    fetch = asyncio.create_task(asyncio.sleep(60))
    fetcher.__dict__.update(
        _closed=False,
        _fetch_task=asyncio.create_task(asyncio.sleep(60)),
        _fetch_waiters=set(),
        _pending_tasks={fetch},
        _subscriptions=SubscriptionState(),
    )
    consumer.__dict__.update(_closed=False, _coordinator=None, _fetcher=fetcher, _client=client)
    await asyncio.sleep(0)
    return consumer, client, fetch


async def test_aiokafka_lets_the_cancellation_of_its_fetches_out() -> None:
    consumer, client, _ = await consumer_that_tries_again()
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()
    assert not client.closed, "if this fails, aiokafka was mended and stop_consumer can go"


async def test_a_consumer_stopped_during_an_outage_is_closed_and_its_user_goes_on() -> None:
    consumer, client, fetch = await consumer_that_tries_again()
    await stop_consumer(consumer)
    assert client.closed
    assert fetch.cancelled()


async def test_a_cancellation_of_the_caller_still_passes() -> None:
    consumer, client, _ = await consumer_that_tries_again()
    stopping = asyncio.create_task(stop_consumer(consumer))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    assert client.closed
