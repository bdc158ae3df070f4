"""The ClickHouse row writer behaves as the port says; tables, types and migrations agree."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fairlane.errors import Retry
from fairlane.sinks.clickhouse import ClickHouseWriter
from fairlane.sinks.connection import ClickHouseConnection
from fairlane.sinks.migrate import load_migrations, migrate
from fairlane.sinks.tables import REQUESTS, TABLES, Table
from tests.contract.row_writer import RESULTS_0, RowWriterBehaviour, TableReader, request_rows
from tests.source_tree import ROOT

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
async def connection(clickhouse_url: str) -> AsyncIterator[ClickHouseConnection]:
    connection = ClickHouseConnection(clickhouse_url)
    yield connection
    await connection.close()


@pytest.fixture
async def database(connection: ClickHouseConnection) -> AsyncIterator[str]:
    name = f"t{uuid.uuid4().hex}"
    await migrate(connection, name)
    yield name
    await connection.command(f"DROP DATABASE {name}")


@pytest.fixture
async def writer(clickhouse_url: str, database: str) -> AsyncIterator[ClickHouseWriter]:
    writer = ClickHouseWriter(clickhouse_url, database)
    yield writer
    await writer.close()


@pytest.fixture
def read(connection: ClickHouseConnection, database: str) -> TableReader:
    def plain(value: Any, kind: str) -> Any:
        if value is not None and "DateTime64" in kind:
            return round((value.replace(tzinfo=UTC) - EPOCH).total_seconds() * 1000)
        return value

    async def rows(table: Table) -> list[dict[str, Any]]:
        found = await connection.rows(f"SELECT {', '.join(table.names)} FROM {database}.{table.name}")
        return [{n: plain(v, t) for (n, t), v in zip(table.columns, row, strict=True)} for row in found]

    return rows


class TestClickHouseWriter(RowWriterBehaviour):
    """On a server or on the front."""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
async def test_the_columns_in_code_are_those_of_the_migrations(
    connection: ClickHouseConnection, database: str, table: Table
) -> None:
    found = await connection.rows(
        "SELECT name, type FROM system.columns WHERE database = {d:String} AND table = {t:String} ORDER BY position",
        {"d": database, "t": table.name},
    )
    assert [(name, kind) for name, kind in found] == list(table.columns)


async def test_many_processes_may_migrate_at_once(clickhouse_url: str) -> None:
    name = f"t{uuid.uuid4().hex}"
    connections = [ClickHouseConnection(clickhouse_url) for _ in range(6)]
    try:
        await asyncio.gather(*(migrate(connection, name) for connection in connections))
        found = await connections[0].rows(
            f"SELECT version, name, checksum FROM {name}.schema_migrations ORDER BY version"
        )
        assert [tuple(row) for row in found] == [(m.version, m.name, m.checksum) for m in load_migrations()]
        await connections[0].command(f"DROP DATABASE {name}")
    finally:
        for connection in connections:
            await connection.close()


async def test_missing_tables_are_waited_for_and_named(clickhouse_url: str) -> None:
    writer = ClickHouseWriter(clickhouse_url, f"t{uuid.uuid4().hex}")
    with pytest.raises(Retry, match="run `fairlane migrate`"):
        await writer.insert(REQUESTS, request_rows("a"), "t:0-0")
    with pytest.raises(Retry, match="run `fairlane migrate`"):
        await writer.present([("acme", "a")], RESULTS_0, 0)
    await writer.close()


async def test_no_server_is_waited_for(clickhouse_url: str, unused_tcp_port: int) -> None:
    writer = ClickHouseWriter(f"http://user:hidden@127.0.0.1:{unused_tcp_port}", "fairlane")
    with pytest.raises(Retry) as refused:
        await writer.insert(REQUESTS, request_rows("a"), "t:0-0")
    assert "hidden" not in str(refused.value)
    await writer.close()


def test_an_insert_loads_no_library_of_data_frames(clickhouse_url: str, database: str) -> None:
    # In a process of its own: others here load them for purposes of theirs.
    code = (
        "import asyncio, sys\n"
        "from fairlane.sinks.clickhouse import ClickHouseWriter\n"
        "from fairlane.sinks.tables import REQUESTS\n"
        "from tests.contract.row_writer import request_rows\n"
        "async def main():\n"
        f"    writer = ClickHouseWriter({clickhouse_url!r}, {database!r})\n"
        "    await writer.insert(REQUESTS, request_rows('r-1', 'r-2'), 'token')\n"
        "    await writer.close()\n"
        "asyncio.run(main())\n"
        "print(sorted({'numpy', 'pandas', 'pyarrow'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert told.stdout.strip() == "[]"
