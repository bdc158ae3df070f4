"""A process with a loop engine that tells its stage's story on standard output, one line an event.

Run as ``python -m tests.integration.member_process BOOTSTRAP GROUP TOPIC INSTANCE SESSION_TIMEOUT_MS``.
It finishes records with an even offset at once and never the others.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence

from fairlane.clock import SystemClock
from fairlane.ports import Done, Record, Restored, TopicPartition
from fairlane.streams.engines.loop import LoopEngine
from fairlane.streams.kafka_consumer import KafkaConsumer
from fairlane.telemetry import NO_METRICS, configure_logging


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


class TellingStage:
    async def assigned(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        for tp, restored in sorted(partitions.items()):
            tell("took", tp.partition, restored.offset)

    async def process(self, batch: Sequence[Record], done: Done) -> None:
        for record in batch:
            tell("record", record.partition, record.offset)
            if record.offset % 2 == 0:
                done(record)

    async def poisoned(self, record: Record, failure: Exception) -> None:
        tell("poisoned", record.partition, record.offset)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        for tp in sorted(partitions):
            tell("lost", tp.partition)

    async def drain(self) -> None:
        tell("drained")

    def note(self, partition: TopicPartition) -> str:
        return ""


async def main(bootstrap: str, group: str, topic: str, instance: str, session_timeout_ms: str) -> None:
    configure_logging("member", instance, "error", stream=sys.stderr)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    consumer = KafkaConsumer(bootstrap, group, [topic], instance=instance, session_timeout_ms=int(session_timeout_ms))
    await LoopEngine(
        consumer,
        TellingStage(),
        SystemClock(),
        NO_METRICS,
        stage_name="worker",
        batch_max_records=100,
        window_records=1_000,
        commit_interval_ms=50,
        drain_timeout_ms=5_000,
    ).run(stopping)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
