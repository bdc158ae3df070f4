"""Headers that anybody may set."""

from __future__ import annotations

import pytest

from fairlane.schemas.base import MAX_SAFE_INTEGER
from fairlane.schemas.codec import encode
from fairlane.schemas.headers import IDENTITY, PASSED_ON_BYTES_MAX, SOURCE, TICKET, identity_header, only, trace_id
from fairlane.schemas.job import Ticket

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_trace_id_is_read_from_a_traceparent() -> None:
    assert trace_id(TRACE) == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("value", [TRACE + b"\n", b"\n" + TRACE, TRACE + b"\r\nx: y", b"", b"\xff", TRACE.upper()])
def test_what_is_no_traceparent_is_left_out_for_it_travels_on_to_the_provider(value: bytes) -> None:
    assert trace_id(value) is None


def test_what_is_longer_than_any_stage_writes_is_not_passed_on_and_the_longest_that_one_writes_is() -> None:
    longest = "x" * 128
    topic = "t" * 249  # of Kafka
    big = 2**63 - 1
    ticket = Ticket(
        tenant_id=longest, request_id=longest, priority="critical", model=longest, input_tokens=MAX_SAFE_INTEGER,
        output_limit=MAX_SAFE_INTEGER, received_ms=-big, admitted_ms=-big, deadline_ms=-big, trace_id="0" * 32,
    )  # fmt: skip
    headers = (
        (TICKET, encode(ticket)),
        identity_header(f"{topic}/{big}/{big}".encode(), "f" * 64),
        (SOURCE, b"s" * (PASSED_ON_BYTES_MAX + 1)),
    )
    assert only(headers, TICKET, IDENTITY, SOURCE) == headers[:2]
