"""Stops aiokafka consumers, also while their brokers are away."""

# ruff: noqa: SLF001 - aiokafka offers no seam here, and it is pinned to one version.

from __future__ import annotations

import asyncio
from typing import Any


async def stop_consumer(consumer: Any) -> None:
    """Stop an ``AIOKafkaConsumer`` and close its connections. Only a cancellation of the caller passes.

    ``Fetcher.close`` of aiokafka 0.14 cancels the fetches under way and awaits them without catching what
    that raises: where one waits to try again, as each does during an outage, its CancelledError comes out of
    ``stop`` as if the caller had been cancelled, and the connections stay open.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        fetcher = consumer._fetcher
        for fetch in list(fetcher._pending_tasks) if fetcher is not None else ():
            fetch.cancel()
        await consumer._client.close()
        caller = asyncio.current_task()
        if caller is not None and caller.cancelling():
            raise
