"""Which answers are kept for whoever asks again under the same key."""

from __future__ import annotations

import pytest

from fairlane.agents.settlement import settlement_of
from fairlane.ports import Record
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.result import Cost, Result, Status, Timings
from tests.stage_harness import NAMES


@pytest.mark.parametrize(
    ("status", "code", "kept"),
    [
        (Status.SUCCEEDED, None, True),
        (Status.FAILED, ErrorCode.PROVIDER_REFUSED, True),
        (Status.FAILED, ErrorCode.PROVIDER_TIMEOUT, False),
        (Status.CANCELLED, ErrorCode.CANCELLED, False),
    ],
)
def test_an_answer_is_kept_unless_asking_again_may_bring_another(
    status: Status, code: ErrorCode | None, kept: bool
) -> None:
    now = timestamp_from_ms(1_795_000_000_000)
    result = Result(
        request_id="r-1", tenant_id="acme", status=status, error=None if code is None else error(code, "why"),
        attempts=1, cost=Cost(nano_usd=0), timings=Timings(received_at=now, completed_at=now),
        config_version="c",
    )  # fmt: skip
    record = Record(NAMES.results, 3, 7, 0, b"acme/r-1", b"")
    assert settlement_of(record, result, NAMES, 60).replayable is kept
