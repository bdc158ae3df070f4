"""Queries on the embedded engine: one short-lived connection each, so that no setting outlives its query.

Measured on chDB 26.9 with two cores: a connection costs 0.1 ms, queries on different connections run in
parallel, those on one wait for each other.

Data of an INSERT is given to the engine as a file, in memory where the system has such files. Its streaming insert
costs 0.6 ms less, but calls an insert done whose rows it could not store (full disk, violated constraint); and data
after the statement must be text.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlane.devstack.clickhouse_front.data_file import data_file
from fairlane.devstack.clickhouse_front.exceptions import QueryFailed, from_engine
from fairlane.devstack.clickhouse_front.statement import Insert, inspect

DEFAULT_FORMAT = "TabSeparated"
NAMES = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""Of formats."""


@dataclass(frozen=True, slots=True)
class Query:
    """One request: statement and data together, as bytes."""

    text: bytes
    parameters: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    database: str = ""
    default_format: str = DEFAULT_FORMAT
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; ``summary`` is the value of X-ClickHouse-Summary."""

    data: bytes
    output_format: str
    summary: str


class Engine:
    """The engine on one directory. Methods block; :meth:`run` may be called from several threads at once.

    Opening a directory that another process has open raises :class:`QueryFailed`.
    """

    def __init__(self, path: str, defaults: Mapping[str, str]) -> None:
        import chdb  # half a second and 300 MB: only the front's process pays for it

        self._connect: Callable[[str], Any] = chdb.connect
        self._path = path
        self._defaults = dict(defaults)
        try:
            # The engine stops with its last connection, so this one stays.
            self._anchor = chdb.connect(path)  # type: ignore[no-untyped-call]  # the wheel is not typed
            described = self._anchor.query("SELECT version(), timezone(), hostName()", "TabSeparated").bytes()
        except RuntimeError as failure:
            raise from_engine(str(failure)) from None
        self.version, self.timezone, self.host = described.decode().rstrip("\n").split("\t")

    def close(self) -> None:
        """Close the engine; no query may be running."""
        self._anchor.close()

    def run(self, query: Query) -> Answer:
        """Execute; raises :class:`QueryFailed`."""
        statement = inspect(query.text)
        if statement.several:
            raise QueryFailed(62, "SYNTAX_ERROR", "Syntax error: Multi-statements are not allowed", 400)
        started = time.perf_counter_ns()
        connection = self._connect(self._path)
        try:
            self._prepare(connection, query, statement.insert)
            if statement.insert is not None and not (statement.insert.input_format == "Values" and query.parameters):
                figures = self._insert(connection, statement.insert, query.text)
                data, output_format = b"", query.default_format
            else:
                output_format = statement.output_format or query.default_format
                result = connection.query(query.text, output_format, params=dict(query.parameters))
                data = result.bytes()
                figures = (
                    result.storage_rows_read(), result.storage_bytes_read(), result.rows_written(),
                    result.bytes_written(), result.rows_read(), len(data),
                )  # fmt: skip
        except RuntimeError as failure:  # all the wheel raises; what happened is only in its text
            raise from_engine(str(failure)) from None
        except OSError as failure:
            raise QueryFailed(243, "NOT_ENOUGH_SPACE", f"No room for the data of the insert: {failure}") from None
        finally:
            connection.close()
        names = ("read_rows", "read_bytes", "written_rows", "written_bytes", "result_rows", "result_bytes")
        summary = {name: str(value) for name, value in zip(names, figures, strict=True)}
        summary |= {"total_rows_to_read": "0", "elapsed_ns": str(time.perf_counter_ns() - started)}
        return Answer(data, output_format, json.dumps(summary, separators=(",", ":")))

    def _prepare(self, connection: Any, query: Query, insert: Insert | None) -> None:
        settings = self._defaults | dict(query.settings)
        if insert is not None:
            # The session's, as the settings are: the statement that is made of an insert has none of its own.
            settings |= {f"param_{name}": value for name, value in query.parameters.items()}
        script = f"USE {_identifier(query.database)};" if query.database else ""
        if settings:
            script += "SET " + ", ".join(f"{_setting(name)} = {_literal(value)}" for name, value in settings.items())
        if query.readonly and settings.get("readonly", "0") == "0":
            script += ("," if settings else "SET") + " readonly = 2"
        if script:
            connection.query(script, DEFAULT_FORMAT)

    @staticmethod
    def _insert(connection: Any, insert: Insert, text: bytes) -> tuple[int, ...]:
        if not NAMES.fullmatch(insert.input_format):
            raise QueryFailed(73, "UNKNOWN_FORMAT", f"Unknown format {insert.input_format}", 404)
        target, settings = insert.head[: insert.settings_at], insert.head[insert.settings_at :]
        with data_file(memoryview(text)[insert.data_at :]) as path:
            source = f" FROM INFILE {_literal(path)} COMPRESSION 'none' "
            statement = target + source.encode() + settings + b" FORMAT " + insert.input_format.encode()
            written = connection.query(statement, DEFAULT_FORMAT)
        return (0, 0, written.rows_written(), written.bytes_written(), 0, 0)


def _setting(name: str) -> str:
    if not (name.isascii() and name.replace("_", "").isalnum()):
        raise QueryFailed(115, "UNKNOWN_SETTING", "Unknown setting: its name has characters no setting has", 404)
    return name


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
