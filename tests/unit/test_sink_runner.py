"""The sinks on a log in memory: every record one row, through crashes, refusals and changes of ownership."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from fairlane.adapters.memory_consumer import MemoryConsumer
from fairlane.adapters.memory_log import MemoryLog, MemoryReader
from fairlane.clock import SystemClock
from fairlane.errors import Fatal, Retry
from fairlane.ports import Outgoing, OwnershipLost, Position, TopicPartition
from fairlane.schemas.base import WireModel
from fairlane.schemas.codec import encode
from fairlane.schemas.topics import request_key
from fairlane.sinks.base import Row
from fairlane.sinks.memory import MemoryWriter
from fairlane.sinks.ranges import IntendedRange, parse_range
from fairlane.sinks.rows import feeds_by_topic
from fairlane.sinks.runner import SinkRunner
from fairlane.sinks.tables import ATTEMPTS, DEAD_LETTERS, DECISIONS, REQUESTS, Table
from fairlane.telemetry import NO_METRICS, Metrics, PrometheusMetrics
from tests import sink_samples as samples
from tests.late_commits import LateCommits

PREFIX = "t."
RESULTS, GROUP = PREFIX + "results", "sinks"


class StuckWriter(MemoryWriter):
    """Inserts, then never comes back: what a process looks like that dies before it commits."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck = asyncio.Event()
        self.free = False

    async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
        await super().insert(table, rows, token)
        if not self.free:
            self.stuck.set()
            await asyncio.Event().wait()


class SlowWriter(MemoryWriter):
    """Takes its time after the rows are there, so that a crash can fall in between: ``cut`` counts those."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = self.cut = 0

    async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
        await super().insert(table, rows, token)
        self.busy += 1
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            self.busy -= 1


class Sinks:
    """Runners on one log and one database."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.log.create_topics(PREFIX)
        self.writer: MemoryWriter = MemoryWriter()
        self.metrics: Metrics = NO_METRICS
        self._running: list[tuple[asyncio.Task[None], asyncio.Event, MemoryConsumer]] = []

    def start(
        self, *, rows: int = 50, age_ms: int = 5, recent: int = 1000, instance: str = "", kind: type = MemoryConsumer
    ) -> SinkRunner:
        feeds = feeds_by_topic(PREFIX)
        consumer = kind(self.log, GROUP, feeds, session_timeout_ms=60, instance=instance)
        runner = SinkRunner(
            consumer, MemoryReader(self.log), self.writer, feeds, SystemClock(), self.metrics,
            batch_rows=rows, batch_ms=age_ms, drain_timeout_ms=2000, recent_offsets=recent, poll_ms=5,
        )  # fmt: skip
        stopping = asyncio.Event()
        self._running.append((asyncio.create_task(runner.run(stopping)), stopping, consumer))
        return runner

    async def stop(self) -> None:
        """All of them, gracefully."""
        running, self._running = self._running, []
        for _, stopping, _ in running:
            stopping.set()
        await asyncio.gather(*(task for task, _, _ in running))

    async def kill(self, index: int = 0) -> None:
        """One of them, without a word."""
        task, _, consumer = self._running.pop(index)
        consumer.vanish()
        task.cancel()
        await asyncio.wait([task])

    def send(self, model: WireModel, topic: str = "results", partition: int | None = None) -> None:
        key = getattr(model, "decision_id", getattr(model, "dead_letter_id", "acme/r-1")).encode()
        if topic == "results":
            key = request_key(model.tenant_id, model.request_id)  # type: ignore[attr-defined]  # a Result
        self.log.append(Outgoing(PREFIX + topic, key, encode(model), partition=partition))

    def send_results(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.send(samples.result(f"r-{number}"))

    def request_ids(self) -> list[str]:
        return [row["request_id"] for row in self.writer.named(REQUESTS)]

    def committed(self) -> bool:
        """Whether everything in the log is committed, with no range open."""
        positions = self.log.group(GROUP).positions
        return all(
            (position := positions.get(tp)) is not None and position.offset == end and position.metadata == ""
            for topic in feeds_by_topic(PREFIX)
            for p in range(self.log.count(topic))
            if (end := self.log.bounds(tp := TopicPartition(topic, p))[1])
        )


@pytest.fixture
async def sinks() -> AsyncIterator[Sinks]:
    made = Sinks()
    yield made
    while made._running:
        await made.kill()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (what is waited for is state, not an event)
            await asyncio.sleep(0.002)


async def test_every_public_record_becomes_one_row_of_its_table(sinks: Sinks) -> None:
    sinks.send_results(1, 300)
    sinks.send(samples.attempt(1), "attempts")
    sinks.send(samples.decision(), "decisions")
    sinks.send(samples.dead_letter(), "dead-letters")
    runner = sinks.start()
    await until(sinks.committed)
    assert runner.ready
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 301)}
    assert [len(sinks.writer.named(table)) for table in (ATTEMPTS, DECISIONS, DEAD_LETTERS)] == [1, 1, 1]


async def test_the_range_is_committed_before_the_insert_and_the_offset_after_it(sinks: Sinks) -> None:
    sinks.writer = StuckWriter()
    for n in range(3):
        sinks.send(samples.result(f"r-{n}"), partition=0)
    sinks.start()
    await sinks.writer.stuck.wait()
    position = sinks.log.group(GROUP).positions[TopicPartition(RESULTS, 0)]
    assert position == Position(0, "range:0-2")


async def test_a_crash_between_insert_and_commit_makes_no_second_row(sinks: Sinks) -> None:
    sinks.writer = writer = StuckWriter()
    for n in range(40):
        sinks.send(samples.result(f"r-{n}"), partition=n % 2)
    sinks.start(rows=15)
    await writer.stuck.wait()
    intended = {
        tp: parse_range(p.metadata) for tp, p in sinks.log.group(GROUP).positions.items() if p.metadata
    }  # fmt: skip
    assert intended
    await sinks.kill()
    sinks.send_results(1000, 1010)
    writer.free = True
    sinks.start(rows=7)  # other limits: the boundaries of the dead one still hold
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in [*range(40), *range(1000, 1011)]}
    for tp, wanted in intended.items():
        assert isinstance(wanted, IntendedRange)
        assert writer.tokens.count(wanted.token("requests", tp)) >= 1


async def test_an_insert_whose_answer_is_lost_is_repeated_under_the_same_token(sinks: Sinks) -> None:
    sinks.writer.losing_answers = True
    sinks.send_results(1, 20)
    sinks.start()
    await until(lambda: len(sinks.writer.tokens) > 30)
    sinks.writer.losing_answers = False
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 21)}


async def test_while_the_database_is_away_memory_is_bounded_and_nothing_is_lost(sinks: Sinks) -> None:
    sinks.writer.refusing = True
    sinks.send_results(1, 3000)
    runner = sinks.start(rows=50)
    held: list[int] = []
    for _ in range(100):
        held.append(sum(len(part.buffer or ()) for part in runner._owned.values()))
        await asyncio.sleep(0.002)
    assert 0 < max(held) <= 4 * 50 + 1000, "four full batches and one poll"
    sinks.writer.refusing = False
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 3001)}


async def test_one_table_that_refuses_does_not_hold_up_the_others(sinks: Sinks) -> None:
    class NoDecisions(MemoryWriter):
        async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
            if table is DECISIONS:
                raise Retry("no such table", after=0.005)
            await super().insert(table, rows, token)

    sinks.writer = NoDecisions()
    sinks.send(samples.decision(), "decisions")
    sinks.start()
    sinks.send_results(1, 10)
    await until(lambda: len(sinks.request_ids()) == 10)
    sinks.send_results(11, 20)
    await until(lambda: len(sinks.request_ids()) == 20)


async def test_garbage_is_passed_over_and_its_offset_committed(sinks: Sinks) -> None:
    sinks.metrics = metrics = PrometheusMetrics()
    for n in range(5):
        sinks.log.append(Outgoing(RESULTS, b"acme/r-1", b"\xffgarbage %d" % n, partition=0))
    sinks.log.append(Outgoing(RESULTS, b"acme/r-1", None, partition=0))
    sinks.send(samples.result("r-1"), partition=0)
    sinks.start()
    await until(sinks.committed)
    assert sinks.request_ids() == ["r-1"]
    assert b'fairlane_sink_skipped_total{reason="undecodable",table="requests"} 6.0' in metrics.exposition()


async def test_a_later_terminal_of_a_key_is_no_row_also_after_a_restart(sinks: Sinks) -> None:
    sinks.send(samples.result("r-1", nano_usd=1), partition=0)
    sinks.start()
    await until(sinks.committed)
    await sinks.stop()
    sinks.send(samples.result("r-1", nano_usd=2), partition=0)
    sinks.start()
    await until(sinks.committed)
    assert [row["cost_nano_usd"] for row in sinks.writer.named(REQUESTS)] == [1]


async def test_a_replay_of_a_request_long_answered_is_no_second_row(sinks: Sinks) -> None:
    sinks.send(samples.result("old"), partition=0)
    for n in range(50):
        sinks.send(samples.result(f"r-{n}"), partition=0)
    sinks.start(recent=10)
    await until(sinks.committed)
    sinks.send(samples.result("old", replayed=True), partition=0)
    sinks.send(samples.result("new", replayed=True), partition=0)
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {**{f"r-{n}": 1 for n in range(50)}, "old": 1, "new": 1}


async def test_a_rebuilt_replay_that_is_in_the_table_already_is_not_taken_for_its_own_duplicate(sinks: Sinks) -> None:
    # The first insert was done; the rebuild must give the same rows, or another token's worth would differ.
    sinks.writer = writer = StuckWriter()
    sinks.send(samples.result("new", replayed=True), partition=0)
    sinks.start()
    await writer.stuck.wait()
    await sinks.kill()
    writer.free = True
    sinks.start()
    await until(sinks.committed)
    assert writer.tokens == ["requests:t.results:0:0-0"] * 2


async def test_stopping_inserts_and_commits_what_was_read(sinks: Sinks) -> None:
    runner = sinks.start(age_ms=60_000, rows=10_000)
    sinks.send_results(1, 100)
    await until(lambda: sum(len(part.buffer or ()) for part in runner._owned.values()) == 100)
    assert sinks.request_ids() == []
    await sinks.stop()
    assert len(sinks.request_ids()) == 100
    assert sinks.committed()


async def test_stopping_does_not_wait_for_a_database_that_is_away(sinks: Sinks) -> None:
    runner = sinks.start(age_ms=60_000, rows=10_000)
    sinks.send_results(1, 10)
    await until(lambda: sum(len(part.buffer or ()) for part in runner._owned.values()) == 10)
    sinks.writer.refusing = True
    async with asyncio.timeout(1.5):  # less than the drain timeout
        await sinks.stop()
    sinks.writer.refusing = False
    sinks.start()
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 11)}


async def test_commits_and_reads_that_fail_are_tried_again(sinks: Sinks) -> None:
    sinks.log.fail_next("committed", Retry("away", after=0.005), times=3)
    sinks.log.fail_next("commit", Retry("away", after=0.005), times=5)
    sinks.log.fail_next("poll", Retry("away", after=0.005), times=3)
    sinks.log.fail_next("read", Retry("away", after=0.005), times=3)
    sinks.send_results(1, 200)
    sinks.start()
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 201)}


async def test_rows_that_do_not_fit_end_the_process_instead_of_being_lost(sinks: Sinks) -> None:
    class Broken(MemoryWriter):
        async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
            raise Fatal("column x")

    sinks.writer = Broken()
    sinks.send_results(1, 1)
    sinks.start()
    task, _, _ = sinks._running[0]
    with pytest.raises(Fatal, match="column x"):
        await task
    assert sinks.log.group(GROUP).positions[next(iter(sinks.log.group(GROUP).positions))].offset == 0


async def test_a_second_process_takes_its_part_and_what_stays_is_not_read_again(sinks: Sinks) -> None:
    first = sinks.start()
    sinks.send_results(1, 400)
    await until(sinks.committed)
    second = sinks.start()
    sinks.send_results(401, 800)
    await until(lambda: second.ready and bool(second._owned) and len(first._owned) < 25)
    sinks.send_results(801, 1200)
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 1201)}
    assert not first._owned.keys() & second._owned.keys()


async def test_a_process_that_lost_its_partitions_inserts_nothing_more_of_them(sinks: Sinks) -> None:
    sinks.send_results(1, 50)
    sinks.log.fail_next("commit", OwnershipLost("fenced"), times=1)  # type: ignore[arg-type]  # it may be any failure
    runner = sinks.start()
    await until(lambda: runner._joined and not runner._owned)
    assert sinks.writer.tokens == []


async def test_a_commit_that_a_rebalance_overtook_costs_no_partition(sinks: Sinks) -> None:
    runner = sinks.start(kind=LateCommits)
    _, _, consumer = sinks._running[0]
    assert isinstance(consumer, LateCommits)
    await until(lambda: runner.ready)
    consumer.away = True
    sinks.send_results(1, 50)
    await until(lambda: consumer.turned_away > 0)
    async with consumer.between_generations():
        consumer.away, consumer.late = False, True
        await until(lambda: consumer.under_way)
    await until(sinks.committed)
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, 51)}


@pytest.mark.parametrize("seed", range(8))
async def test_random_crashes_refusals_and_joins_leave_exactly_one_row_each(sinks: Sinks, seed: int) -> None:
    rng = random.Random(seed)
    sinks.writer = writer = SlowWriter()
    sinks.start()
    sent = 0
    for _ in range(25):
        match rng.randrange(8):
            case 0 | 1 | 2:
                more = rng.randrange(1, 60)
                sinks.send_results(sent + 1, sent + more)
                if sent and rng.random() < 0.5:
                    again = rng.randrange(max(1, sent - 100), sent + 1)
                    sinks.send_results(again, again)
                sent += more
            case 3:
                writer.refusing = True
                await asyncio.sleep(rng.random() * 0.02)
                writer.refusing = False
            case 4:
                writer.losing_answers = not writer.losing_answers
            case 5 | 6:
                sinks.send_results(sent + 1, sent + 10)
                sent += 10
                writer.losing_answers = False
                await until(lambda: writer.busy > 0)
                while sinks._running and rng.random() < 0.9:
                    await sinks.kill(rng.randrange(len(sinks._running)))
                sinks.start(rows=rng.randrange(5, 60), instance=f"i{rng.random()}" if rng.random() < 0.3 else "")
            case _ if len(sinks._running) < 3:
                sinks.start(rows=rng.randrange(5, 60))
            case _:
                await asyncio.sleep(rng.random() * 0.02)
    writer.losing_answers = False
    await until(sinks.committed)
    assert writer.cut > 0, "the seed is of no use: no crash fell between an insert and its commit"
    assert Counter(sinks.request_ids()) == {f"r-{n}": 1 for n in range(1, sent + 1)}
