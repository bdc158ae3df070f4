"""A :class:`~fairlane.sinks.writer.RowWriter` in memory, for tests: it can refuse, and forget to answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fairlane.errors import Retry
from fairlane.ports import TopicPartition
from fairlane.sinks.base import Row
from fairlane.sinks.tables import REQUESTS, Table


class MemoryWriter:
    """``refusing`` makes every call raise Retry; ``losing_answers`` makes an insert raise after it was done."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Row]] = defaultdict(list)
        self.tokens: list[str] = []
        self.refusing = False
        self.losing_answers = False
        self._seen: set[str] = set()

    async def insert(self, table: Table, rows: Sequence[Row], token: str) -> None:
        """Keep the rows unless the token was seen."""
        self._refuse()
        self.tokens.append(token)
        if token not in self._seen:
            self._seen.add(token)
            self.tables[table.name].extend(rows)
        if self.losing_answers:
            raise Retry("the answer was lost", after=0.01)

    async def present(
        self, requests: Sequence[tuple[str, str]], partition: TopicPartition, offset: int
    ) -> frozenset[tuple[str, str]]:
        """Look the requests up."""
        self._refuse()
        wanted = frozenset(requests)
        found = set()
        for row in self.named(REQUESTS):
            later = row["log_partition"] == partition.partition and row["log_offset"] >= offset
            if not later:
                found.add((row["tenant_id"], row["request_id"]))
        return wanted & found

    def named(self, table: Table) -> list[dict[str, Any]]:
        """All rows of a table with their column names."""
        return [dict(zip(table.names, row, strict=True)) for row in self.tables[table.name]]

    def _refuse(self) -> None:
        if self.refusing:
            raise Retry("refused", after=0.01)
