"""Where the Faust engine begins to read partitions it was given."""

from __future__ import annotations

from pathlib import Path

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.adapters.memory_log import MemoryLog, MemoryReader
from fairlane.policy.offsets import CommitTracker
from fairlane.ports import Outgoing, Position, Restored, TopicPartition
from fairlane.streams.engines.faust import FaustEngine
from fairlane.telemetry import NO_METRICS
from tests.stage_harness import World
from tests.unit.test_gate import gate_of

TOPIC = "requests"


def engine_of(log: MemoryLog, path: Path) -> FaustEngine:
    world = World()
    return FaustEngine(
        gate_of(world, MemoryAdmissionStore()),
        stage_name="gate",
        bootstrap="127.0.0.1:1",
        group="g",
        topics=[TOPIC],
        instance=None,
        reader=MemoryReader(log),
        clock=world.clock,
        metrics=NO_METRICS,
        batch_max_records=500,
        window_records=1_000,
        commit_interval_ms=100,
        session_timeout_ms=6_000,
        drain_timeout_ms=2_000,
        data_dir=path,
    )


async def restored(log: MemoryLog, path: Path) -> Restored:
    tp = TopicPartition(TOPIC, 0)
    return (await engine_of(log, path)._restored(frozenset({tp})))[tp]


async def test_reading_goes_on_at_the_commit_without_what_is_finished_beyond_it(tmp_path: Path) -> None:
    log = MemoryLog()
    log.create_topic(TOPIC, 1)
    for _ in range(5):
        log.append(Outgoing(TOPIC, b"k", b"v"))
    assert await restored(log, tmp_path) == Restored(0, 5)
    log.group("g").positions[TopicPartition(TOPIC, 0)] = Position(*CommitTracker(2, [3]).position("n"))
    assert await restored(log, tmp_path) == Restored(2, 5, frozenset({3}), "n")
    log.trim(TOPIC, 0, 4)
    assert await restored(log, tmp_path) == Restored(4, 5, frozenset(), "n")


async def test_a_topic_that_was_made_anew_is_read_from_its_start(tmp_path: Path) -> None:
    log = MemoryLog()
    log.create_topic(TOPIC, 1)
    log.append(Outgoing(TOPIC, b"k", b"v"))
    log.group("g").positions[TopicPartition(TOPIC, 0)] = Position(700)
    assert await restored(log, tmp_path) == Restored(0, 1)
