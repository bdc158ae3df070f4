"""Where the sinks begin to read partitions whose log is not the one that was committed."""

from __future__ import annotations

from fairlane.ports import Position, TopicPartition
from tests import sink_samples as samples
from tests.unit.test_sink_runner import GROUP, RESULTS, Sinks, sinks, until

__all__ = ["sinks"]


async def test_a_topic_that_was_made_anew_is_read_from_its_start(sinks: Sinks) -> None:
    for number in range(3):
        sinks.send(samples.result(f"r-{number}"), partition=0)
    sinks.log.group(GROUP).positions[TopicPartition(RESULTS, 0)] = Position(700, "range:700-720")
    sinks.start()
    await until(lambda: len(sinks.request_ids()) == 3 and sinks.committed())
