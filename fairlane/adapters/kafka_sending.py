"""When aiokafka sends: a process under load lets records gather before its next request."""

# ruff: noqa: SLF001 - aiokafka offers no seam here, and it is pinned to one version.

from __future__ import annotations

import asyncio
from typing import Any

FEW = 4
"""Records in one request from which on waiting for more is worth it: they come faster than requests are answered."""


def gather_between_requests(producer: Any, seconds: float) -> None:
    """Let an ``AIOKafkaProducer`` begin its requests to a broker ``seconds`` apart while each holds several records.

    aiokafka sends what there is as soon as the request before is answered. That is right for lone records. Under
    load it makes requests of a few records each, and a request costs the broker and everybody who follows its topics
    more than a record does. A request that held fewer than :data:`FEW` records is followed by no pause.
    """
    sender = producer._sender
    send = sender._send_produce_req

    async def send_and_gather(node_id: int, batches: Any) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time() + seconds
        enough = sum(batch.record_count for batch in batches.values()) >= FEW
        await send(node_id, batches)
        left = next_at - loop.time()
        if enough and left > 0:
            # As if the request were still under way: the sender leaves this broker alone, and looks again at the end.
            sender._in_flight.add(node_id)
            try:
                await asyncio.sleep(left)
            finally:
                sender._in_flight.discard(node_id)

    sender._send_produce_req = send_and_gather
