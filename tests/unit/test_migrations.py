"""Migrations: numbered, harmless when repeated, applied once, never changed afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from fairlane.errors import Reject
from fairlane.sinks.migrate import Migration, load_migrations, migrate
from fairlane.sinks.tables import TABLES, Table

HARMLESS_TWICE = re.compile(r"\bIF (NOT )?EXISTS\b")


class Ledger:
    """Just enough of ClickHouse: remembers statements and the rows of schema_migrations."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.applied: dict[int, str] = {}

    async def command(
        self, statement: str, parameters: dict[str, Any] | None = None, settings: dict[str, str] | None = None
    ) -> None:
        self.statements.append(statement)
        if parameters is not None and "checksum" in parameters:
            assert settings == {"insert_deduplication_token": f"migration:{parameters['version']}"}
            self.applied[parameters["version"]] = parameters["checksum"]

    async def rows(self, query: str, parameters: dict[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        if "system.tables" in query:
            return [[1]] if self.applied else []
        return list(self.applied.items())


def test_the_files_are_numbered_from_one_without_gaps() -> None:
    assert [migration.version for migration in load_migrations()] == list(range(1, len(load_migrations()) + 1))


@pytest.mark.parametrize("migration", load_migrations(), ids=lambda migration: migration.name)
def test_every_statement_does_no_harm_when_it_runs_again(migration: Migration) -> None:
    statements = migration.statements("db")
    assert statements
    for statement in statements:
        assert HARMLESS_TWICE.search(statement.split("\n")[0]), statement[:80]
        assert "{database}" not in statement
        assert "now(" not in statement.lower(), "times come from events"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_keeps_a_long_deduplication_window(table: Table) -> None:
    text = "\n".join(s for m in load_migrations() for s in m.statements("db") if f"db.{table.name}\n" in s)
    window = re.search(r"non_replicated_deduplication_window = (\d+)", text)
    assert window is not None
    assert int(window[1]) >= 10_000


def test_a_file_is_split_into_statements_and_its_comments_dropped() -> None:
    text = "-- a; b\nCREATE TABLE IF NOT EXISTS {database}.a (x String DEFAULT ';');\n\n-- c\nDROP TABLE IF EXISTS b;\n"
    assert Migration(1, "0001_x", text).statements("db") == [
        "CREATE TABLE IF NOT EXISTS db.a (x String DEFAULT ';')",
        "DROP TABLE IF EXISTS b",
    ]


async def test_what_is_applied_is_not_applied_again() -> None:
    ledger = Ledger()
    first = await migrate(ledger, "db")
    assert first.already == ()
    assert first.pending == tuple(m.name for m in load_migrations())
    before = len(ledger.statements)
    second = await migrate(ledger, "db")
    assert second.already == first.pending
    assert second.pending == ()
    assert len(ledger.statements) == before


async def test_a_dry_run_changes_nothing() -> None:
    ledger = Ledger()
    report = await migrate(ledger, "db", dry_run=True)
    assert report.pending
    assert ledger.statements == []


async def test_a_file_changed_after_it_was_applied_is_refused() -> None:
    ledger = Ledger()
    await migrate(ledger, "db")
    ledger.applied[2] = "other"
    with pytest.raises(Reject, match="0002_attempts was changed"):
        await migrate(ledger, "db")


async def test_a_database_that_is_ahead_is_left_as_it_is() -> None:
    ledger = Ledger()
    await migrate(ledger, "db")
    ledger.applied[99] = "newer"
    assert (await migrate(ledger, "db")).pending == ()


@pytest.mark.parametrize("name", ["", "a b", "a;drop", "1a", "a.b", "x" * 65])
async def test_a_database_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(Reject, match="clickhouse_database"):
        await migrate(Ledger(), name)
