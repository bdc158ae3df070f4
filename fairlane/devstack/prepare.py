"""``python -m fairlane.devstack.prepare``: topics, first configuration and tables on given services, then it ends.

What ``fairlane up`` does between starting services and stages, for stacks that something else runs.
"""

from __future__ import annotations

import asyncio
import sys

from fairlane.devstack.first_config import LogPreparation
from fairlane.errors import FairlaneError
from fairlane.settings import Settings, load_settings
from fairlane.sinks.connection import ClickHouseConnection
from fairlane.sinks.migrate import migrate


async def prepare_tables(url: str, database: str) -> None:
    """Bring the tables up to date. Raises Retry while ClickHouse is away, Reject for what it refuses."""
    connection = ClickHouseConnection(url)
    try:
        await migrate(connection, database)
    finally:
        await connection.close()


async def prepare(settings: Settings) -> None:
    """Prepare the log and the tables at the addresses in the settings."""
    await LogPreparation(settings.kafka_bootstrap, settings.topic_prefix, settings.simulator_url).run()
    await prepare_tables(settings.clickhouse_url, settings.clickhouse_database)


def main() -> int:
    """Prepare what the environment names; returns the exit code."""
    try:
        asyncio.run(prepare(load_settings()))
    except FairlaneError as failure:
        sys.stderr.write(f"fairlane: {failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
