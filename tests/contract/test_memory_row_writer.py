"""The in-memory row writer behaves as the port says."""

from __future__ import annotations

from typing import Any

import pytest

from fairlane.errors import Retry
from fairlane.sinks.memory import MemoryWriter
from fairlane.sinks.tables import REQUESTS, Table
from tests.contract.row_writer import RowWriterBehaviour, TableReader, request_rows


class TestMemoryWriter(RowWriterBehaviour):
    """On the twin."""

    @pytest.fixture
    def writer(self) -> MemoryWriter:
        return MemoryWriter()

    @pytest.fixture
    def read(self, writer: MemoryWriter) -> TableReader:
        async def rows(table: Table) -> list[dict[str, Any]]:
            return writer.named(table)

        return rows


async def test_an_answer_can_be_lost_after_the_rows_are_there() -> None:
    writer = MemoryWriter()
    writer.losing_answers = True
    with pytest.raises(Retry):
        await writer.insert(REQUESTS, request_rows("a"), "t:0-0")
    assert len(writer.named(REQUESTS)) == 1
