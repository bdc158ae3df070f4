"""Rows into ClickHouse, columns first, each block under its deduplication token."""

from __future__ import annotations

from collections.abc import Sequence

from fairlane.errors import Fatal, Reject, Retry
from fairlane.ports import TopicPartition
from fairlane.sinks.base import Row
from fairlane.sinks.connection import ClickHouseConnection, error_code, unavailable
from fairlane.sinks.tables import Table

_MISSING_TABLE_AFTER_S = 2.0
_MISSING_TABLE_CODES = frozenset({60, 81})
"""UNKNOWN_TABLE, UNKNOWN_DATABASE."""


class ClickHouseWriter:
    """A :class:`~fairlane.sinks.writer.RowWriter` for one database.

    Raises Retry for whatever the server says: rows refused today may be taken after a migration, and nothing
    of the log is ever dropped for it. Raises Fatal for rows that do not fit the columns, which is a bug.
    """

    def __init__(self, url: str, database: str) -> None:
        self._connection = ClickHouseConnection(url)
        self._database = database

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self._connection.close()

    async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
        """Insert one block under a deduplication token; rows are all there when this returns."""
        from clickhouse_connect.driver.exceptions import DataError, Error, ProgrammingError

        try:
            client = await self._connection.client()
            await client.insert(
                table.name,
                list(zip(*rows, strict=True)),
                database=self._database,
                column_names=table.names,
                column_type_names=table.types,
                column_oriented=True,
                settings={
                    "insert_deduplication_token": token,
                    "deduplicate_blocks_in_dependent_materialized_views": 1,
                    "max_partitions_per_insert_block": 0,  # a batch may hold events of many months
                    "max_threads": 1,  # small blocks: more threads only cost CPU (7.2 instead of 8.9 ms)
                },
            )
        except (DataError, ProgrammingError) as failure:
            raise Fatal(f"rows for {table.name} do not fit its columns: {failure}") from failure
        except (Error, OSError, TimeoutError, Reject) as failure:
            raise self._retry(failure) from None

    async def present(
        self, requests: Sequence[tuple[str, str]], partition: TopicPartition, offset: int
    ) -> frozenset[tuple[str, str]]:
        """Look requests up by their bloom filter; few of them at a time."""
        from clickhouse_connect.driver.exceptions import Error

        try:
            client = await self._connection.client()
            result = await client.query(
                "SELECT DISTINCT tenant_id, request_id FROM {database:Identifier}.requests "
                "WHERE tenant_id IN {tenants:Array(String)} AND request_id IN {requests:Array(String)} "
                "AND NOT (log_partition = {partition:UInt32} AND log_offset >= {offset:UInt64})",
                parameters={
                    "database": self._database,
                    "tenants": sorted({tenant for tenant, _ in requests}),
                    "requests": sorted({request for _, request in requests}),
                    "partition": partition.partition,
                    "offset": offset,
                },
            )
        except (Error, OSError, TimeoutError, Reject) as failure:
            raise self._retry(failure) from None
        return frozenset((str(tenant), str(request)) for tenant, request in result.result_rows) & frozenset(requests)

    def _retry(self, failure: Exception) -> Retry:
        if error_code(failure) in _MISSING_TABLE_CODES:
            message = f"ClickHouse has no such table in {self._database}; run `fairlane migrate`"
            return Retry(message, after=_MISSING_TABLE_AFTER_S)
        return unavailable(failure)
