"""The providers of an installation, as applied."""

from __future__ import annotations

import asyncio

from fairlane.errors import Retry
from fairlane.schemas.catalog import Provider

READ_TIMEOUT_S = 5.0


async def applied_providers(bootstrap: str, topic_prefix: str) -> list[Provider]:
    """The providers of the catalog. Raises Retry where the log cannot be read within :data:`READ_TIMEOUT_S`."""
    from fairlane.adapters.kafka_reader import KafkaReader
    from fairlane.agents.config_apply import read_applied
    from fairlane.agents.topic_names import TopicNames

    names = TopicNames(topic_prefix)
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            reader = KafkaReader(bootstrap)
            await reader.start()
            try:
                applied = await read_applied(reader, names.tenants, names.catalog)
            finally:
                await reader.stop()
    except TimeoutError:
        raise Retry(f"the catalog could not be read within {READ_TIMEOUT_S:.0f} s") from None
    return list(applied.fold.view.providers.values())
