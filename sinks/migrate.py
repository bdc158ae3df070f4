"""Applies the numbered SQL files of ``sinks/migrations``, each once, to a server or to the local front.

Any number of processes may do it at once: statements are written to do no harm when repeated, and the
record of a migration is inserted under a deduplication token, so one row stays of several.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

import stamina

from fairlane.errors import Reject, Retry

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_DATABASE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
_STATEMENT_END = re.compile(r";[ \t]*$", re.MULTILINE)
_COMMENT_LINE = re.compile(r"^\s*--.*$", re.MULTILINE)

_LEDGER = """CREATE TABLE IF NOT EXISTS {database}.schema_migrations
(
    version UInt32,
    name String,
    checksum String COMMENT 'SHA-256 of the file',
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree ORDER BY version
SETTINGS non_replicated_deduplication_window = 10000"""


class SqlConnection(Protocol):
    """What migrations need of ClickHouse. Both raise Retry while it is away and Reject for what it refuses."""

    async def command(
        self, statement: str, parameters: dict[str, Any] | None = None, settings: dict[str, str] | None = None
    ) -> None:
        """Run one statement without a result."""
        ...

    async def rows(self, query: str, parameters: dict[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """Run one query and return its rows."""
        ...


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name, its text."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text as it is in the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def statements(self, database: str) -> list[str]:
        """The statements one by one, for one database."""
        text = _COMMENT_LINE.sub("", self.text).replace("{database}", database)
        return [statement.strip() for statement in _STATEMENT_END.split(text) if statement.strip()]


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """Names of the migrations found applied, and of those applied now (or, in a dry run, to be applied)."""

    already: tuple[str, ...]
    pending: tuple[str, ...]


def load_migrations() -> tuple[Migration, ...]:
    """The files of the package in order; raises ValueError if their numbers do not count up from 1."""
    found = [
        Migration(int(match[1]), entry.name.removesuffix(".sql"), entry.read_text("utf-8"))
        for entry in files("fairlane.sinks.migrations").iterdir()
        if (match := _FILE.match(entry.name))
    ]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1 to {len(found)}: {[m.name for m in found]}")
    return tuple(found)


async def migrate(
    connection: SqlConnection, database: str, *, migrations: Sequence[Migration] | None = None, dry_run: bool = False
) -> MigrationReport:
    """Bring ``database`` up to date and say what was done.

    Raises Reject if an applied migration differs from its file or the database's name is not plain, and
    Retry while ClickHouse is away. A database that is ahead of these files is left as it is.
    """
    if not _DATABASE.match(database):
        raise Reject(f"clickhouse_database {database!r}: use letters, digits and _, not beginning with a digit")
    wanted = load_migrations() if migrations is None else migrations
    applied = await _applied(connection, database)
    for migration in wanted:
        if applied.get(migration.version, migration.checksum) != migration.checksum:
            raise Reject(
                f"migration {migration.name} was changed after it was applied to {database}; "
                "restore the file and put the change into a new one"
            )
    pending = [migration for migration in wanted if migration.version not in applied]
    if pending and not dry_run:
        await _run(connection, f"CREATE DATABASE IF NOT EXISTS {database}")
        await _run(connection, _LEDGER.replace("{database}", database))
        for migration in pending:
            for statement in migration.statements(database):
                await _run(connection, statement)
            await connection.command(
                "INSERT INTO {database:Identifier}.schema_migrations (version, name, checksum) "
                "VALUES ({version:UInt32}, {name:String}, {checksum:String})",
                {
                    "database": database,
                    "version": migration.version,
                    "name": migration.name,
                    "checksum": migration.checksum,
                },
                {"insert_deduplication_token": f"migration:{migration.version}"},
            )
    return MigrationReport(
        already=tuple(m.name for m in wanted if m.version in applied), pending=tuple(m.name for m in pending)
    )


async def _applied(connection: SqlConnection, database: str) -> dict[int, str]:
    exists = await connection.rows(
        "SELECT 1 FROM system.tables WHERE database = {database:String} AND name = 'schema_migrations'",
        {"database": database},
    )
    if not exists:
        return {}
    rows = await connection.rows(
        "SELECT version, any(checksum) FROM {database:Identifier}.schema_migrations GROUP BY version",
        {"database": database},
    )
    return {int(version): str(checksum) for version, checksum in rows}


async def _run(connection: SqlConnection, statement: str) -> None:
    # Two processes that create the same table at the same moment: the loser is told to come again, or
    # that it exists. Both end when the other is done.
    async for attempt in stamina.retry_context(on=(Reject, Retry), attempts=4, timeout=30.0, wait_initial=0.2):
        with attempt:
            await connection.command(statement)
