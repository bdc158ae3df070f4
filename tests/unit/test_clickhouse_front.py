"""The parts of the ClickHouse front that need no engine: statements, codings, errors."""

from __future__ import annotations

import gzip
import zlib

import lz4.frame  # type: ignore[import-untyped]  # ships no stubs
import pytest
from backports import zstd

from fairlane.devstack.clickhouse_front.encodings import Codings
from fairlane.devstack.clickhouse_front.exceptions import QueryFailed, from_engine
from fairlane.devstack.clickhouse_front.statement import inspect


@pytest.mark.parametrize(
    ("text", "head", "input_format", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"INSERT INTO t ", "CSV", b"1,2\n"),
        (b"insert into t (a, b) format JSONEachRow {}", b"insert into t (a, b) ", "JSONEachRow", b"{}"),
        (b"INSERT INTO d.t (a) FORMAT Native\r\n\x00';\xff", b"INSERT INTO d.t (a) ", "Native", b"\x00';\xff"),
        (b"INSERT INTO t FORMAT CSV\n\n1", b"INSERT INTO t ", "CSV", b"\n1"),
        (b"/* x */ INSERT INTO t SETTINGS a = 1 FORMAT TSV\n1", b"/* x */ INSERT INTO t SETTINGS a = 1 ", "TSV", b"1"),
        (b"INSERT INTO t VALUES (1, ';')", b"INSERT INTO t ", "Values", b" (1, ';')"),
        (b"INSERT INTO t FORMAT Values (1)", b"INSERT INTO t ", "Values", b" (1)"),
        (b"INSERT INTO format FORMAT CSV\n1", b"INSERT INTO format ", "CSV", b"1"),
        (b"INSERT INTO TABLE d.values (`format`) FORMAT CSV 1", b"INSERT INTO TABLE d.values (`format`) ", "CSV", b"1"),
        (b"INSERT INTO FUNCTION file('x', CSV) FORMAT CSV 1", b"INSERT INTO FUNCTION file('x', CSV) ", "CSV", b"1"),
        (b"-- INTO a FORMAT b\nINSERT INTO t FORMAT CSV\n", b"-- INTO a FORMAT b\nINSERT INTO t ", "CSV", b""),
    ],
)  # fmt: skip
def test_an_insert_is_split_into_its_head_its_format_and_its_data(
    text: bytes, head: bytes, input_format: str, data: bytes
) -> None:
    insert = inspect(text).insert
    assert insert is not None
    assert (insert.head, insert.input_format, text[insert.data_at :]) == (head, input_format, data)


@pytest.mark.parametrize(
    ("head", "target", "settings"),
    [
        (b"INSERT INTO t ", b"INSERT INTO t ", b""),
        (b"INSERT INTO t (a, settings) SETTINGS a = 1 ", b"INSERT INTO t (a, settings) ", b"SETTINGS a = 1 "),
        (b"INSERT INTO settings settings a = 1 ", b"INSERT INTO settings ", b"settings a = 1 "),
        (b"INSERT INTO d.settings ", b"INSERT INTO d.settings ", b""),
    ],
)
def test_the_settings_of_an_insert_are_found(head: bytes, target: bytes, settings: bytes) -> None:
    found = inspect(head + b"FORMAT CSV\n1").insert
    assert found is not None
    assert (found.head[: found.settings_at], found.head[found.settings_at :]) == (target, settings)


@pytest.mark.parametrize(
    "text",
    [
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t (a) WITH x AS (SELECT 1) SELECT * FROM x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"SELECT 1",
        b"INSERT INTO t",
        b"INSERT INTO t FORMAT",
        b"INSERT",
        b"",
        b"  -- nothing\n",
        b"'INSERT INTO t FORMAT CSV 1",
    ],
)
def test_statements_without_data_go_to_the_engine_whole(text: bytes) -> None:
    assert inspect(text).insert is None


@pytest.mark.parametrize(
    ("text", "output_format"),
    [
        (b"SELECT 1", None),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 1\n format JSONEachRow ;", "JSONEachRow"),
        (b"SELECT 1 FORMAT CSV SETTINGS max_threads = 1, log_comment = 'x'", "CSV"),
        (b"SELECT format FROM t", None),
        (b"SELECT 1 AS format", None),
        (b"SELECT (SELECT 1 FORMAT CSV)", None),
        (b"SELECT 'x FORMAT CSV'", None),
        (b"SELECT $$ FORMAT CSV $$ FORMAT TSV", "TSV"),
        (b"SELECT 1 -- FORMAT CSV", None),
    ],
)
def test_the_format_a_query_asks_for_is_found(text: bytes, output_format: str | None) -> None:
    assert inspect(text).output_format == output_format


@pytest.mark.parametrize(
    ("text", "several"),
    [
        (b"SELECT 1; SELECT 2", True),
        (b"SELECT 1;", False),
        (b"SELECT 1; -- done", False),
        (b"SELECT ';'", False),
        (b"DROP TABLE a;DROP TABLE b", True),
    ],
)
def test_several_statements_at_once_are_noticed(text: bytes, several: bool) -> None:
    assert inspect(text).several is several


def test_a_long_hostile_text_is_read_in_linear_time() -> None:
    assert inspect(b"INSERT INTO t VALUES ('" + b"\\'" * 200_000).insert is not None
    assert inspect(b"SELECT '" + b"a" * 1_000_000).insert is None


@pytest.mark.parametrize(
    ("coding", "encoded"),
    [
        ("gzip", gzip.compress(b"one") + gzip.compress(b"two")),
        ("deflate", zlib.compress(b"onetwo")),
        ("lz4", lz4.frame.compress(b"one") + lz4.frame.compress(b"two")),
        ("zstd", zstd.compress(b"one") + zstd.compress(b"two")),
        ("", b"onetwo"),
        ("identity", b"onetwo"),
        ("GZIP", gzip.compress(b"onetwo")),
    ],
)
def test_bodies_of_several_frames_are_decompressed(coding: str, encoded: bytes) -> None:
    assert Codings().decode(encoded, coding, limit=6) == b"onetwo"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_body_that_grows_beyond_the_limit_is_refused_without_being_held(coding: str) -> None:
    bomb, _ = Codings().encode(bytes(5_000_000), coding)
    with pytest.raises(QueryFailed) as refused:
        Codings().decode(bomb, coding, limit=100_000)
    assert refused.value.status == 413


@pytest.mark.parametrize("coding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_broken_or_cut_body_is_refused(coding: str) -> None:
    whole, _ = Codings().encode(bytes(range(256)) * 20, coding)
    for broken in (b"not compressed", whole[:-3]):
        with pytest.raises(QueryFailed) as refused:
            Codings().decode(broken, coding, limit=1_000_000)
        assert refused.value.status == 400


def test_an_unknown_coding_is_refused_with_those_there_are() -> None:
    with pytest.raises(QueryFailed) as refused:
        Codings().decode(b"x", "br", limit=10)
    assert "gzip" in refused.value.message


def test_an_answer_is_compressed_only_as_the_client_accepts() -> None:
    codings = Codings()
    data = bytes(5000)
    for accepted in ("gzip", "lz4,zstd", "deflate;q=0.5", "zstd"):
        encoded, coding = codings.encode(data, accepted)
        assert coding is not None
        assert coding in accepted
        assert codings.decode(encoded, coding, limit=5000) == data
    assert codings.encode(data, "") == (data, None)
    assert codings.encode(data, "gzip;q=0") == (data, None)
    assert codings.encode(b"small", "gzip") == (b"small", None)


def test_the_engines_message_gives_code_name_and_status() -> None:
    failure = from_engine(
        "Streaming insert finish failed: Code: 60. DB::Exception: Table x (y) is not there. (UNKNOWN_TABLE)"
    )
    assert (failure.code, failure.name, failure.status) == (60, "UNKNOWN_TABLE", 404)
    assert failure.text == "Code: 60. DB::Exception: Table x (y) is not there. (UNKNOWN_TABLE)"


def test_a_message_without_a_code_is_an_unknown_exception() -> None:
    failure = from_engine("something else")
    assert (failure.code, failure.status) == (1002, 500)
    assert "something else" in failure.text
