"""What every row writer does; run on the in-memory twin and on ClickHouse."""

from __future__ import annotations

from typing import Any, Protocol

from fairlane.ports import TopicPartition
from fairlane.schemas.result import Result
from fairlane.sinks.base import Row
from fairlane.sinks.rows import FEEDS, request_row
from fairlane.sinks.tables import REQUESTS, TABLES, Table
from fairlane.sinks.writer import RowWriter
from tests import sink_samples as samples

RESULTS_0 = TopicPartition("fairlane.results", 0)
SAMPLES = {
    "requests": samples.result(),
    "attempts": samples.attempt(),
    "decisions": samples.decision(),
    "dead_letters": samples.dead_letter(),
}


class TableReader(Protocol):
    """Reads back what a writer wrote, times as milliseconds."""

    async def __call__(self, table: Table) -> list[dict[str, Any]]: ...


def request_rows(*request_ids: str, partition: int = 0, offset: int = 0, tenant: str = "acme") -> list[Row]:
    return [row(samples.result(r, tenant=tenant), partition, offset + i) for i, r in enumerate(request_ids)]


def row(model: Result, partition: int, offset: int) -> Row:
    return request_row(model, samples.record(model, partition=partition, offset=offset))


class RowWriterBehaviour:
    """Subclasses provide the ``writer`` and ``read`` fixtures."""

    async def test_every_value_of_every_table_comes_back_as_it_went_in(
        self, writer: RowWriter, read: TableReader
    ) -> None:
        for feed in FEEDS:
            model = SAMPLES[feed.table.name]
            written = feed.row(model, samples.record(model, topic=feed.topic.name, partition=6, offset=1 << 40))
            await writer.insert(feed.table, [written], f"{feed.table.name}:one")
            assert await read(feed.table) == [dict(zip(feed.table.names, written, strict=True))]

    async def test_a_token_seen_before_changes_nothing(self, writer: RowWriter, read: TableReader) -> None:
        await writer.insert(REQUESTS, request_rows("a", "b"), "t:0-1")
        await writer.insert(REQUESTS, request_rows("a", "b"), "t:0-1")
        await writer.insert(REQUESTS, request_rows("x"), "t:0-1")
        assert sorted(r["request_id"] for r in await read(REQUESTS)) == ["a", "b"]

    async def test_equal_rows_under_another_token_are_other_rows(self, writer: RowWriter, read: TableReader) -> None:
        await writer.insert(REQUESTS, request_rows("a"), "t:0-0")
        await writer.insert(REQUESTS, request_rows("a"), "t:1-1")
        assert [r["request_id"] for r in await read(REQUESTS)] == ["a", "a"]

    async def test_a_token_counts_for_its_own_table(self, writer: RowWriter, read: TableReader) -> None:
        for feed in FEEDS:
            model = SAMPLES[feed.table.name]
            rows = [feed.row(model, samples.record(model, topic=feed.topic.name))]
            await writer.insert(feed.table, rows, f"{feed.table.name}:same")
        assert [len(await read(table)) for table in TABLES] == [1, 1, 1, 1]

    async def test_a_batch_over_many_months_is_one_insert(self, writer: RowWriter, read: TableReader) -> None:
        months = [(2027 + i // 12, 1 + i % 12) for i in range(150)]
        rows = [
            row(samples.result(f"m-{i}", completed=samples.COMPLETED.replace(year=year, month=month)), 0, i)
            for i, (year, month) in enumerate(months)
        ]
        for _ in range(2):
            await writer.insert(REQUESTS, rows, "t:0-149")
        assert len(await read(REQUESTS)) == 150

    async def test_requests_that_have_a_row_are_found(self, writer: RowWriter, read: TableReader) -> None:
        await writer.insert(REQUESTS, request_rows("a", "b"), "t:0-1")
        await writer.insert(REQUESTS, request_rows("a", offset=2, tenant="other"), "t:2-2")
        wanted = [("acme", "a"), ("acme", "c"), ("other", "b"), ("other", "a"), ("ü'\\\t", "x'y\\")]
        assert await writer.present(wanted, RESULTS_0, 3) == {("acme", "a"), ("other", "a")}

    async def test_rows_at_or_past_an_offset_of_the_same_partition_are_not_found(
        self, writer: RowWriter, read: TableReader
    ) -> None:
        await writer.insert(REQUESTS, request_rows("a", "b", partition=0, offset=10), "t:10-11")
        await writer.insert(REQUESTS, request_rows("c", partition=1, offset=10), "u:10-10")
        asked = [("acme", "a"), ("acme", "b"), ("acme", "c")]
        assert await writer.present(asked, RESULTS_0, 11) == {("acme", "a"), ("acme", "c")}
        assert await writer.present(asked, RESULTS_0, 10) == {("acme", "c")}
