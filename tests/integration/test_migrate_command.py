"""``fairlane migrate`` on a real database."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator

import pytest

from fairlane.cli.main import EXIT_UNREACHABLE, EXIT_USAGE, main
from fairlane.sinks.connection import ClickHouseConnection
from fairlane.sinks.migrate import load_migrations

NAMES = [migration.name for migration in load_migrations()]


@pytest.fixture
def database(clickhouse_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    monkeypatch.setenv("FAIRLANE_CLICKHOUSE_URL", clickhouse_url)
    monkeypatch.setenv("FAIRLANE_CLICKHOUSE_DATABASE", name)
    yield name

    async def drop() -> None:
        connection = ClickHouseConnection(clickhouse_url)
        await connection.command(f"DROP DATABASE IF EXISTS {name}")
        await connection.close()

    asyncio.run(drop())


def test_it_says_what_it_would_do_does_it_and_does_it_once(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["database"], plan["already"], plan["pending"]) == (database, [], NAMES)
    assert main(["migrate"]) == 0
    assert f"{NAMES[0]}  applied" in capsys.readouterr().out
    assert main(["migrate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "database": database, "dry_run": False, "already": NAMES, "applied": [],
    }  # fmt: skip


def test_bad_input_and_no_server_have_exit_codes_and_one_line(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("FAIRLANE_CLICKHOUSE_URL", f"http://u:hidden@127.0.0.1:{unused_tcp_port}")
    assert main(["migrate"]) == EXIT_UNREACHABLE
    monkeypatch.setenv("FAIRLANE_CLICKHOUSE_DATABASE", "a b")
    assert main(["migrate"]) == EXIT_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "hidden" not in lines[0]
