"""One sinks process for tests that kill it: the runner on real Kafka and ClickHouse, until SIGTERM.

Arguments: bootstrap, topic prefix, ClickHouse URL, database, rows of a batch.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.clock import SystemClock
from fairlane.sinks.clickhouse import ClickHouseWriter
from fairlane.sinks.rows import feeds_by_topic
from fairlane.sinks.runner import SinkRunner
from fairlane.streams.kafka_consumer import KafkaConsumer
from fairlane.telemetry import NO_METRICS


async def run(bootstrap: str, prefix: str, url: str, database: str, rows: str) -> None:
    feeds = feeds_by_topic(prefix)
    reader, writer = KafkaReader(bootstrap), ClickHouseWriter(url, database)
    await reader.start()
    consumer = KafkaConsumer(bootstrap, prefix + "sinks", feeds, session_timeout_ms=6_000)
    runner = SinkRunner(
        consumer, reader, writer, feeds, SystemClock(), NO_METRICS,
        batch_rows=int(rows), batch_ms=100, drain_timeout_ms=10_000,
    )  # fmt: skip
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        await runner.run(stopping)
    finally:
        await writer.close()
        await reader.stop()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
