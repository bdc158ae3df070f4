"""What every log does: publisher, reader and consumer. Run in memory and on Kafka.

A test module makes a fixture ``log`` of :class:`~tests.contract.log_under_test.LogUnderTest` and subclasses the suites.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from fairlane.errors import Poison, Retry
from fairlane.ports import (
    Bounds,
    Outgoing,
    OwnershipLost,
    Position,
    Record,
    TopicPartition,
)
from tests.contract.log_under_test import PATIENCE_S, LogUnderTest, Members, by_partition, read_all, write


class PublisherContract:
    async def test_records_of_a_partition_are_appended_in_the_order_of_the_calls(self, log: LogUnderTest) -> None:
        topic = await log.topic(3)
        written = await write(log, topic, 600)
        for partition in range(3):
            mine = [r for r in written if r.partition == partition]
            assert [r.offset for r in mine] == list(range(len(mine)))
            assert mine

    async def test_the_acknowledgement_is_the_record_as_it_stands_in_the_log(self, log: LogUnderTest) -> None:
        topic = await log.topic(2)
        written = await write(log, topic, 20)
        assert sorted(written, key=lambda r: (r.partition, r.offset)) == await read_all(log, topic)

    async def test_a_chosen_partition_is_kept_and_one_that_does_not_exist_is_poison(self, log: LogUnderTest) -> None:
        topic = await log.topic(3)
        assert {r.partition for r in await write(log, topic, 5, partition=2)} == {2}
        with pytest.raises(Poison, match="3 partitions"):
            await log.publisher.send(Outgoing(topic, b"k", b"v", partition=3))

    async def test_a_tombstone_is_written_and_a_record_of_nothing_is_poison(self, log: LogUnderTest) -> None:
        topic = await log.topic(1)
        await log.publisher.send(Outgoing(topic, b"gone", None))
        assert [(r.key, r.value) for r in await read_all(log, topic)] == [(b"gone", None)]
        with pytest.raises(Poison):
            await log.publisher.send(Outgoing(topic, None, None))

    async def test_one_record_that_is_too_large_is_poison_and_its_neighbours_are_written(
        self, log: LogUnderTest
    ) -> None:
        topic = await log.topic(1)
        futures = [
            log.publisher.send(Outgoing(topic, b"a", b"1")),
            log.publisher.send(Outgoing(topic, b"b", b"x" * (log.max_record_bytes + 1))),
            log.publisher.send(Outgoing(topic, b"c", b"3")),
        ]
        first, large, last = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(large, Poison)
        assert isinstance(first, Record)
        assert isinstance(last, Record)
        assert [r.key for r in await read_all(log, topic)] == [b"a", b"c"]

    async def test_a_large_record_below_the_limit_is_written_and_read(self, log: LogUnderTest) -> None:
        topic = await log.topic(1)
        await write(log, topic, 3)
        await log.publisher.send(Outgoing(topic, b"big", b"x" * (log.max_record_bytes - 200)))
        assert [len(r.value or b"") for r in await read_all(log, topic)][-1] == log.max_record_bytes - 200

    async def test_a_topic_nobody_knows_is_a_retry(self, log: LogUnderTest) -> None:
        unknown = log.name("unknown")
        with pytest.raises(Retry, match=unknown):
            await log.publisher.send(Outgoing(unknown, b"k", b"v"))
        with pytest.raises(Retry, match=unknown):
            await log.publisher.partitions(unknown)

    async def test_the_number_of_partitions_is_known(self, log: LogUnderTest) -> None:
        assert await log.publisher.partitions(await log.topic(3)) == 3

    async def test_flush_waits_for_all_acknowledgements(self, log: LogUnderTest) -> None:
        topic = await log.topic(2)
        futures = [log.publisher.send(Outgoing(topic, b"k%d" % i, b"v")) for i in range(100)]
        await log.publisher.flush()
        assert all(future.done() for future in futures)
        await asyncio.gather(*futures)

    async def test_an_abandoned_acknowledgement_does_not_keep_the_record_from_being_written(
        self, log: LogUnderTest
    ) -> None:
        topic = await log.topic(1)
        log.publisher.send(Outgoing(topic, b"a", b"1")).cancel()
        await log.publisher.send(Outgoing(topic, b"b", b"2"))
        assert [r.key for r in await read_all(log, topic)] == [b"a", b"b"]


class ReaderContract:
    async def test_an_empty_topic_starts_and_ends_at_zero(self, log: LogUnderTest) -> None:
        topic = await log.topic(2)
        assert await log.reader.starts(topic) == {0: 0, 1: 0}
        assert await log.reader.ends(topic) == {0: 0, 1: 0}
        assert await read_all(log, topic) == []

    async def test_a_range_is_read_exactly(self, log: LogUnderTest) -> None:
        topic = await log.topic(3)
        for partition in range(3):
            await write(log, topic, 50, partition)
        found: list[Record] = []
        async for batch in log.reader.read(topic, {0: 10, 2: 45}, {0: 20, 2: 50}):
            found.extend(batch)
        assert by_partition(found) == {0: list(range(10, 20)), 2: list(range(45, 50))}

    async def test_a_range_that_is_empty_or_ends_before_it_starts_yields_nothing(self, log: LogUnderTest) -> None:
        topic = await log.topic(1)
        await write(log, topic, 5)
        assert [batch async for batch in log.reader.read(topic, {0: 3}, {0: 3})] == []
        assert [batch async for batch in log.reader.read(topic, {0: 4}, {0: 3})] == []
        assert [batch async for batch in log.reader.read(topic, {0: 4}, {})] == []

    async def test_an_offset_is_found_by_time(self, log: LogUnderTest) -> None:
        topic = await log.topic(1)
        written = await write(log, topic, 3)
        assert await log.reader.offsets_at(topic, written[0].timestamp_ms - 60_000) == {0: 0}
        assert await log.reader.offsets_at(topic, written[-1].timestamp_ms + 60_000) == {0: 3}

    async def test_following_yields_what_is_written_later_and_nothing_now_and_then(self, log: LogUnderTest) -> None:
        topic = await log.topic(2)
        await write(log, topic, 4)
        idle = 0
        found: list[Record] = []
        async with asyncio.timeout(PATIENCE_S), contextlib.aclosing(log.reader.read(topic, {0: 0, 1: 0})) as batches:  # type: ignore[type-var]
            async for batch in batches:
                found.extend(batch)
                if not batch:
                    idle += 1
                    if idle == 1:
                        await write(log, topic, 4)
                if idle >= 2 and len(found) == 8:
                    break
        assert len(found) == 8

    async def test_positions_of_a_group_nobody_knows_are_absent(self, log: LogUnderTest) -> None:
        topic = await log.topic(2)
        assert await log.reader.group_positions(log.name("nobody"), topic) == {}

    async def test_a_topic_nobody_knows_is_a_retry(self, log: LogUnderTest) -> None:
        with pytest.raises(Retry):
            await log.reader.ends(log.name("unknown"))


class ConsumerContract:
    async def test_partitions_and_records_come_with_polls_in_order(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(3)
        written = await write(log, topic, 300)
        listener, records = await members.add(log.consumer(log.name("g"), [topic]))
        assert listener.events == []
        await members.until(lambda: len(records) >= 300)
        assert by_partition(records) == {p: list(o) for p, o in by_partition(written).items()}
        assert sorted(r.key or b"" for r in records) == sorted(r.key or b"" for r in written)
        assert listener.events == [("assigned", frozenset(TopicPartition(topic, p) for p in range(3)))]

    async def test_a_poll_for_no_records_only_follows_the_group(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(1)
        await write(log, topic, 5)
        listener, records = await members.add(log.consumer(log.name("g"), [topic]))
        await members.until(lambda: listener.owned, max_records=0)
        assert records == []

    async def test_partitions_that_wait_share_a_poll(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(2)
        for partition in (0, 1):
            await write(log, topic, 500, partition)
        consumer = log.consumer(log.name("g"), [topic])
        listener, _ = await members.add(consumer)
        await members.until(lambda: listener.owned, max_records=0)
        both = frozenset(TopicPartition(topic, partition) for partition in (0, 1))
        await members.until(lambda: all(consumer.end_seen(tp) == 500 for tp in both), max_records=0)
        batch = await consumer.poll(100, 1_000)
        assert {tp: len(records) for tp, records in batch.items()} == dict.fromkeys(both, 50)

    async def test_a_commit_with_its_metadata_is_read_back(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(2)
        await write(log, topic, 20, partition=0)
        group = log.name("g")
        consumer = log.consumer(group, [topic])
        _, records = await members.add(consumer)
        await members.until(lambda: len(records) == 20)
        here = TopicPartition(topic, 0)
        metadata = "x" * 3_072
        await consumer.commit({here: Position(7, metadata)})
        both = frozenset({here, TopicPartition(topic, 1)})
        assert await consumer.committed(both) == {here: Position(7, metadata)}
        assert await log.reader.group_positions(group, topic) == {0: Position(7, metadata)}

    async def test_a_successor_begins_at_the_committed_position(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(1)
        await write(log, topic, 20)
        group = log.name("g")
        first = log.consumer(group, [topic])
        _, records = await members.add(first)
        await members.until(lambda: len(records) == 20)
        await first.commit({TopicPartition(topic, 0): Position(15)})
        await first.stop()
        members.drop(first)
        _, later = await members.add(log.consumer(group, [topic]))
        await members.until(lambda: len(later) >= 5)
        assert [r.offset for r in later] == [15, 16, 17, 18, 19]

    async def test_seeking_reads_again(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(1)
        await write(log, topic, 10)
        consumer = log.consumer(log.name("g"), [topic])
        _, records = await members.add(consumer)
        await members.until(lambda: len(records) == 10)
        consumer.seek(TopicPartition(topic, 0), 6)
        await members.until(lambda: len(records) == 14)
        assert [r.offset for r in records[10:]] == [6, 7, 8, 9]

    async def test_a_paused_partition_waits_and_resuming_wakes_the_poll(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topic = await log.topic(2)
        consumer = log.consumer(log.name("g"), [topic])
        listener, records = await members.add(consumer)
        await members.until(lambda: listener.owned)
        paused = frozenset({TopicPartition(topic, 0)})
        consumer.pause(paused)
        await write(log, topic, 5, partition=0)
        await write(log, topic, 5, partition=1)
        await members.until(lambda: len(records) == 5)
        assert by_partition(records) == {1: [0, 1, 2, 3, 4]}
        asleep = asyncio.create_task(consumer.poll(100, round(PATIENCE_S * 1000)))
        await asyncio.sleep(0)
        consumer.resume(paused)
        async with asyncio.timeout(PATIENCE_S / 2):
            batch = await asleep
        assert by_partition(r for part in batch.values() for r in part) == {0: [0, 1, 2, 3, 4]}

    async def test_bounds_are_the_kept_range(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(2)
        await write(log, topic, 5, partition=1)
        consumer = log.consumer(log.name("g"), [topic])
        listener, records = await members.add(consumer)
        await members.until(lambda: len(records) == 5)
        bounds = await consumer.bounds(listener.owned or frozenset())
        assert bounds == {TopicPartition(topic, 0): Bounds(0, 0, 0), TopicPartition(topic, 1): Bounds(0, 5, 5)}
        assert consumer.end_seen(TopicPartition(topic, 1)) == 5

    async def test_a_second_member_takes_half_and_the_first_keeps_the_other_half(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topic = await log.topic(4)
        group = log.name("g")
        first = log.consumer(group, [topic])
        one, _ = await members.add(first)
        await members.settled(4)
        everything = one.owned or frozenset()
        second = log.consumer(group, [topic])
        two, _ = await members.add(second)
        await members.settled(4)
        assert one.owned is not None
        assert two.owned is not None
        assert len(one.owned) == len(two.owned) == 2
        assert one.events[1] == ("revoked", everything)
        assert first.kept() == one.owned
        assert second.kept() == frozenset()
        assert two.events[0][0] == "assigned"

    async def test_what_a_member_leaves_behind_passes_to_the_others(self, log: LogUnderTest, members: Members) -> None:
        topic = await log.topic(4)
        group = log.name("g")
        leaving = log.consumer(group, [topic])
        await members.add(leaving)
        staying, _ = await members.add(log.consumer(group, [topic]))
        await members.settled(4)
        members.drop(leaving)
        await leaving.stop()
        await members.until(lambda: staying.owned is not None and len(staying.owned) == 4)

    async def test_a_frozen_member_loses_its_lease_then_its_partitions_and_cannot_commit(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topic = await log.topic(2)
        await write(log, topic, 4)
        group = log.name("g")
        frozen = log.consumer(group, [topic])
        _, records = await members.add(frozen)
        await members.until(lambda: len(records) == 4)
        assert frozen.lease_ok()
        await log.freeze(frozen)
        members.drop(frozen)
        heir, _ = await members.add(log.consumer(group, [topic]))
        await members.until(lambda: heir.owned is not None and len(heir.owned) == 2)
        assert not frozen.lease_ok()
        with pytest.raises((OwnershipLost, Retry)):
            await frozen.commit({TopicPartition(topic, 0): Position(1)})
        assert await log.reader.group_positions(group, topic) == {}
        await log.kill(frozen)

    async def test_a_lease_is_not_certain_before_the_listener_has_let_go_of_what_is_gone(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topic = await log.topic(4)
        group = log.name("g")
        first = log.consumer(group, [topic])
        one, _ = await members.add(first)
        await members.settled(4)
        assert first.lease_ok()
        two, _ = await members.add(log.consumer(group, [topic]))
        await members.settled(4)
        assert (one.sure, two.sure) == ([False, False], [False])
        assert first.lease_ok()

    async def test_a_killed_member_with_a_name_comes_back_to_its_partitions_unnoticed_by_the_others(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topic = await log.topic(4)
        group = log.name("g")
        killed = log.consumer(group, [topic], instance=log.name("one"))
        name = killed._instance  # type: ignore[attr-defined]
        before, _ = await members.add(killed)
        other, _ = await members.add(log.consumer(group, [topic], instance=log.name("two")))
        await members.settled(4)
        untouched = list(other.events)
        await log.kill(killed)
        members.drop(killed)
        after, _ = await members.add(log.consumer(group, [topic], instance=name))
        await members.until(lambda: after.owned)
        assert after.owned == before.owned
        assert other.events == untouched

    async def test_a_killed_member_with_a_name_that_comes_back_while_it_is_waited_for_gets_what_others_left(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topic = await log.topic(4)
        group = log.name("g")
        killed = log.consumer(group, [topic], instance=log.name("one"))
        name = killed._instance  # type: ignore[attr-defined]
        await members.add(killed)
        leaving = log.consumer(group, [topic])
        await members.add(leaving)
        await members.settled(4)
        await log.kill(killed)
        members.drop(killed)
        members.drop(leaving)
        await leaving.stop()
        await members.add(log.consumer(group, [topic], instance=name))
        await members.settled(4)

    async def test_a_whole_topic_goes_to_one_member_and_stays_until_it_dies(
        self, log: LogUnderTest, members: Members
    ) -> None:
        topics = [await log.topic(3, "lanes.a"), await log.topic(3, "lanes.b")]
        group = log.name("g")
        pattern = re.escape(topics[0].removesuffix("a"))
        first = log.consumer(group, pattern=pattern, whole_topics=True)
        one, _ = await members.add(first)
        await members.settled(6)
        two, _ = await members.add(log.consumer(group, pattern=pattern, whole_topics=True))
        await members.settled(6)
        assert one.owned is not None
        assert two.owned is not None
        assert len({tp.topic for tp in one.owned}) == len({tp.topic for tp in two.owned}) == 1
        held = one.owned
        third = log.consumer(group, pattern=pattern, whole_topics=True)
        standby, _ = await members.add(third)
        await members.settled(6)
        assert standby.owned == frozenset()
        assert one.owned == held
        await log.kill(first)
        members.drop(first)
        await members.until(lambda: standby.owned == held)
