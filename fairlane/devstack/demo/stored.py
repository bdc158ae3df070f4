"""What ClickHouse has of a run: the rows the verdict compares, and the tables people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairlane.devstack.demo.facts import Terminal
from fairlane.sinks.connection import ClickHouseConnection


@dataclass(frozen=True, slots=True)
class TableQuery:
    """A table of the demo: its SQL runs as it stands in any client that has chosen the database."""

    title: str
    columns: Sequence[str]
    sql: str


TABLE_QUERIES = (
    TableQuery(
        "Per tenant",
        ("tenant", "requests", "succeeded", "refused", "queue p50 ms", "queue p99 ms", "tokens", "cost USD"),
        """SELECT tenant_id,
       count() AS requests,
       countIf(status = 'succeeded') AS succeeded,
       countIf(status != 'succeeded') AS refused,
       round(quantileExactIf(0.5)(queue_ms, status = 'succeeded'), 1) AS queue_p50_ms,
       round(quantileExactIf(0.99)(queue_ms, status = 'succeeded'), 1) AS queue_p99_ms,
       sum(input_tokens + output_tokens) AS tokens,
       toDecimalString(toDecimal128(sum(cost_nano_usd), 9) / 1000000000, 9) AS cost_usd
FROM requests
GROUP BY tenant_id
ORDER BY requests DESC, tenant_id""",
    ),
    TableQuery(
        "Per model",
        ("model", "price", "requests", "model p50 ms", "added p50 ms", "input tokens", "output tokens", "cost USD"),
        """SELECT model,
       price_id,
       count() AS requests,
       round(quantileExact(0.5)(model_ms), 1) AS model_p50_ms,
       round(quantileExact(0.5)(added_ms), 1) AS added_p50_ms,
       sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens,
       toDecimalString(toDecimal128(sum(cost_nano_usd), 9) / 1000000000, 9) AS cost_usd
FROM requests
WHERE status = 'succeeded'
GROUP BY model, price_id
ORDER BY requests DESC""",
    ),
    TableQuery(
        "Why",
        ("stage", "decision", "reason", "times"),
        """SELECT stage, kind, reason_code, count() AS times
FROM decisions
GROUP BY stage, kind, reason_code
ORDER BY times DESC
LIMIT 12""",
    ),
)


class StoredRun:
    """Reads one database. Methods raise Retry while ClickHouse is away, Reject if a table is missing."""

    def __init__(self, connection: ClickHouseConnection, database: str) -> None:
        self._connection = connection
        self._database = database

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        ((count,),) = await self._connection.rows(
            "SELECT count() FROM {database:Identifier}.{table:Identifier}", {"database": self._database, "table": table}
        )
        return int(count)

    async def terminals(self) -> list[Terminal]:
        """Every row of ``requests``."""
        rows = await self._connection.rows(
            "SELECT tenant_id, request_id, status, error_code, cost_nano_usd, input_tokens, output_tokens, queue_ms, "
            "model_ms, added_ms, toUnixTimestamp64Milli(received_at), toUnixTimestamp64Milli(completed_at), model, "
            "log_partition, log_offset FROM {database:Identifier}.requests",
            {"database": self._database},
        )
        return [_terminal(row) for row in rows]

    async def table(self, query: TableQuery) -> list[list[Any]]:
        """The rows of one of :data:`TABLE_QUERIES`."""
        from_here = query.sql.replace("FROM ", "FROM {database:Identifier}.")
        return [list(row) for row in await self._connection.rows(from_here, {"database": self._database})]


def _terminal(row: Sequence[Any]) -> Terminal:
    (
        tenant_id, request_id, status, code, cost, input_tokens, output_tokens, queue_ms, model_ms, added_ms,
        received_ms, completed_ms, model, partition, offset,
    ) = row  # fmt: skip
    return Terminal(
        tenant_id=tenant_id, request_id=request_id, status=status, error_code=code or None, cost_nano_usd=cost,
        input_tokens=input_tokens, output_tokens=output_tokens, queue_ms=queue_ms, model_ms=model_ms,
        added_ms=added_ms, received_ms=received_ms, completed_ms=completed_ms, model=model or None,
        partition=partition, offset=offset,
    )  # fmt: skip
