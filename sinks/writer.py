"""The port through which rows reach a table: once per token, or an error that says to try again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fairlane.ports import TopicPartition
from fairlane.sinks.base import Row
from fairlane.sinks.tables import Table


class RowWriter(Protocol):
    """Writes and looks up rows. Every method raises Retry while the database is away."""

    async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
        """Insert all rows or none; a ``token`` seen before changes nothing, whatever the rows are.

        When this returns, the rows survive the death of the database's process. After a Retry they may stand
        there or not: the same call again settles it.
        """
        ...

    async def present(
        self, requests: Sequence[tuple[str, str]], partition: TopicPartition, offset: int
    ) -> frozenset[tuple[str, str]]:
        """Which (tenant, request) have a row in ``requests``, other than from ``partition`` at or past ``offset``."""
        ...
