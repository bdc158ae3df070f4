"""Every kind of bad input through the whole chain; `make bad-input` is the long form of this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_input.corpus import KINDS
from tests.bad_input.run import run
from tests.integration.running_chain import Chain

EACH = 20
LARGE = {23: 6, 24: 6, 25: 6, 42: 12}
"""Kinds whose inputs take long to make."""


@pytest.fixture
def chain(kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path: Path) -> Iterator[Chain]:
    chain = Chain(kafka_bootstrap, redis_url, clickhouse_url, tmp_path)
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


async def test_every_kind_of_bad_input_gets_its_code_and_field_once_and_disturbs_nothing(
    chain: Chain,
) -> None:
    report = await run(chain, {number: LARGE.get(number, EACH) for number in KINDS}, seed=2, say=lambda _: None)
    assert len(report.rows) == 71
    assert [(row.kind.name, row.wrong[:3]) for row in report.rows if row.wrong] == []
    assert report.wrong == []
    # A partition that hangs shows as a minute; the figure itself is the long form's business.
    assert report.slowest_good_ms < 10_000
