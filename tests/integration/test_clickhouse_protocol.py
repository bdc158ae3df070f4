"""ClickHouse's HTTP protocol as its clients use it; the same on a server and on the front."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import clickhouse_connect
import lz4.frame  # type: ignore[import-untyped]  # ships no stubs
import pytest
from backports import zstd
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

COLUMNS = ["n", "text", "labels", "at"]
ROWS = [[i, f"zeile 'ü' {i}", {"k": "v"}, datetime(2026, 11, 20, 18, 0, i % 60, tzinfo=UTC)] for i in range(1000)]


@pytest.fixture
def client(clickhouse_url: str) -> Iterator[Client]:
    client = clickhouse_connect.get_client(dsn=clickhouse_url)
    yield client
    client.close()


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    database = f"t{uuid.uuid4().hex}"
    client.command(f"CREATE DATABASE {database}")
    client.command(
        f"CREATE TABLE {database}.t (n UInt64, text String, labels Map(LowCardinality(String), String), "
        "at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100"
    )
    yield f"{database}.t"
    client.command(f"DROP DATABASE {database}")


@pytest.fixture
async def http(clickhouse_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(clickhouse_url, auto_decompress=False) as session:
        yield session


def count(client: Client, table: str) -> Any:
    return client.command(f"SELECT count() FROM {table}")


def test_the_library_connects_and_learns_version_and_settings(client: Client) -> None:
    assert str(client.server_version).count(".") >= 2
    assert "max_threads" in client.server_settings
    assert client.ping()


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_the_library_inserts_and_queries_with_every_compression(
    clickhouse_url: str, table: str, compress: str | bool
) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, compress=compress)
    client.insert(table, ROWS, column_names=COLUMNS)
    found = client.query(f"SELECT * FROM {table} WHERE n < {{n:UInt32}} ORDER BY n", parameters={"n": 500})
    assert found.column_names == tuple(COLUMNS)
    assert [list(row[:3]) for row in found.result_rows] == [row[:3] for row in ROWS[:500]]
    client.close()


def test_parameters_of_every_kind_arrive_as_they_are(client: Client) -> None:
    text = "it's\ta \\ line\nwith ü and {x:String}"
    found = client.query(
        "SELECT {s:String}, {i:Int64}, {l:Array(String)}, {n:Nullable(String)}, {d:DateTime64(3, 'UTC')}",
        parameters={"s": text, "i": -(1 << 62), "l": ["a'b", "c"], "n": None, "d": "2026-11-20 18:00:30.123"},
    )
    assert list(found.result_rows[0][:4]) == [text, -(1 << 62), ["a'b", "c"], None]


def test_parameters_too_long_for_an_address_arrive_as_a_form(client: Client) -> None:
    assert client.query("SELECT {s:String}", parameters={"s": "x" * 100_000}).result_rows == [("x" * 100_000,)]


def test_a_deduplication_token_makes_an_insert_count_once(client: Client, table: str) -> None:
    for token in ("a", "a", "b"):
        client.insert(table, ROWS[:10], column_names=COLUMNS, settings={"insert_deduplication_token": token})
    assert count(client, table) == 20


def test_views_do_not_count_a_repeated_insert_twice(client: Client, table: str) -> None:
    client.command(
        f"CREATE TABLE {table}_sum (n UInt64, c UInt64) ENGINE = SummingMergeTree ORDER BY n "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    client.command(
        f"CREATE MATERIALIZED VIEW {table}_mv TO {table}_sum AS SELECT n, count() AS c FROM {table} GROUP BY n"
    )
    settings = {"insert_deduplication_token": "a", "deduplicate_blocks_in_dependent_materialized_views": 1}
    for _ in range(2):
        client.insert(table, ROWS[:10], column_names=COLUMNS, settings=settings)
    assert client.command(f"SELECT sum(c) FROM {table}_sum") == 10


def test_settings_last_for_one_query(client: Client) -> None:
    assert client.command("SELECT getSetting('max_threads')", settings={"max_threads": 61}) == 61
    assert client.command("SELECT getSetting('max_threads')") != 61


def test_raw_inserts_take_any_format(client: Client, table: str) -> None:
    client.raw_insert(table, ["n", "text"], '{"n": 1, "text": "a;b"}\n{"n": 2, "text": "c"}\n', fmt="JSONEachRow")
    client.raw_insert(table, ["n", "text"], b"3,d\n4,e\n", fmt="CSV")
    client.command(f"INSERT INTO {table} (n, text) VALUES (5, 'f'), (6, concat('g', 'h'))")
    client.command(f"INSERT INTO {table} (n, text) SELECT number + 7, 'i' FROM numbers(2)")
    found = client.query(f"SELECT n, text FROM {table} ORDER BY n").result_rows
    assert found == [(1, "a;b"), (2, "c"), (3, "d"), (4, "e"), (5, "f"), (6, "gh"), (7, "i"), (8, "i")]


def test_errors_carry_code_and_name(client: Client) -> None:
    with pytest.raises(DatabaseError) as failure:
        client.query("SELECT * FROM no_such_table_at_all")
    assert (failure.value.code, failure.value.name) == (60, "UNKNOWN_TABLE")


def test_a_refused_insert_leaves_nothing(client: Client, table: str) -> None:
    with pytest.raises(DatabaseError):
        client.raw_insert(table, ["n", "text"], b"1,a\nnot a number,b\n", fmt="CSV")
    assert count(client, table) == 0


async def test_the_asynchronous_client_runs_queries_and_inserts_at_once(clickhouse_url: str, table: str) -> None:
    client = await clickhouse_connect.get_async_client(dsn=clickhouse_url)
    found = await asyncio.gather(*(client.query(f"SELECT {i}, sleep(0.05)") for i in range(12)))
    assert [result.result_rows[0][0] for result in found] == list(range(12))
    await asyncio.gather(
        *(
            client.insert(table, ROWS[:100], column_names=COLUMNS, settings={"insert_deduplication_token": str(i % 6)})
            for i in range(12)
        )
    )
    assert (await client.query(f"SELECT count() FROM {table}")).result_rows == [(600,)]
    await client.close()


async def test_ping_answers_without_a_query(http: aiohttp.ClientSession) -> None:
    for path in ("/ping", "/"):
        async with http.get(path) as response:
            assert (response.status, await response.text()) == (200, "Ok.\n")


async def test_a_query_may_stand_in_the_address_the_body_or_both(http: aiohttp.ClientSession) -> None:
    async with http.get("/", params={"query": "SELECT {a:UInt8} + 1", "param_a": "41"}) as response:
        assert await response.text() == "42\n"
    async with http.post("/", data="SELECT 1 FORMAT JSONEachRow") as response:
        assert json.loads(await response.text()) == {"1": 1}
    async with http.post("/", params={"query": "SELECT 1,"}, data="2") as response:
        assert await response.text() == "1\t2\n"


async def test_the_answer_says_what_it_is(http: aiohttp.ClientSession) -> None:
    query = {
        "query": "SELECT number FROM numbers(10)",
        "query_id": "q-1",
        "default_format": "CSV",
        "database": "system",
    }
    async with http.post("/", params={**query, "wait_end_of_query": "1"}) as response:
        headers = response.headers
        assert (headers["X-ClickHouse-Query-Id"], headers["X-ClickHouse-Format"]) == ("q-1", "CSV")
        assert headers["Content-Type"].startswith("text/csv")
        assert json.loads(headers["X-ClickHouse-Summary"])["read_rows"] == "10"
        assert headers["X-ClickHouse-Timezone"]
        assert headers["X-ClickHouse-Server-Display-Name"]


@pytest.mark.parametrize(
    ("query", "status", "code", "name"),
    [
        ("SELEC 1", 400, "62", "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 400, "62", "SYNTAX_ERROR"),
        ("SELECT * FROM nope", 404, "60", "UNKNOWN_TABLE"),
        ("SELECT nope(1)", 404, "46", "UNKNOWN_FUNCTION"),
        ("SELECT * FROM nope.t", 404, "81", "UNKNOWN_DATABASE"),
        ("SELECT throwIf(1)", 500, "395", "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ],
)
async def test_a_query_that_fails_says_why(
    http: aiohttp.ClientSession, query: str, status: int, code: str, name: str
) -> None:
    async with http.post("/", data=query) as response:
        text = await response.text()
        assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (status, code)
        assert text.startswith(f"Code: {code}. DB::Exception: ")
        assert f"({name})" in text


async def test_an_unknown_setting_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.post("/", params={"no_such_setting": "1"}, data="SELECT 1") as response:
        assert response.status == 404
        assert "(UNKNOWN_SETTING)" in await response.text()


async def test_reading_by_get_changes_nothing(http: aiohttp.ClientSession, table: str) -> None:
    for query in (f"INSERT INTO {table} (n) VALUES (1)", f"DROP TABLE {table}", "CREATE DATABASE x1"):
        async with http.get("/", params={"query": query}) as response:
            assert response.headers["X-ClickHouse-Exception-Code"] == "164", query
    async with http.get("/", params={"query": f"SELECT count() FROM {table}"}) as response:
        assert await response.text() == "0\n"


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress), ("lz4", lz4.frame.compress)]
)
async def test_bodies_may_be_compressed(
    http: aiohttp.ClientSession, client: Client, table: str, coding: str, compress: Any
) -> None:
    body = b"".join(b'{"n": %d}\n' % i for i in range(1000))
    query = {"query": f"INSERT INTO {table} FORMAT JSONEachRow"}
    async with http.post("/", params=query, data=compress(body), headers={"Content-Encoding": coding}) as response:
        assert response.status == 200, await response.text()
        assert json.loads(response.headers["X-ClickHouse-Summary"])["written_rows"] == "1000"
    assert count(client, table) == 1000


async def test_answers_are_compressed_only_when_asked_for(http: aiohttp.ClientSession) -> None:
    query = {"query": "SELECT number FROM numbers(5000)"}
    accept = {"Accept-Encoding": "gzip"}
    async with http.get("/", params=query, headers=accept) as response:
        assert "Content-Encoding" not in response.headers
        plain = await response.read()
    async with http.get("/", params={**query, "enable_http_compression": "1"}, headers=accept) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(await response.read()) == plain


async def test_a_query_may_be_given_a_time(http: aiohttp.ClientSession) -> None:
    query = "SELECT sleepEachRow(0.2) FROM numbers(100) SETTINGS max_block_size = 1"
    async with http.post("/", params={"max_execution_time": "1"}, data=query) as response:
        assert response.headers["X-ClickHouse-Exception-Code"] == "159"
