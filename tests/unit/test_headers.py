"""Headers that anybody may set."""

from __future__ import annotations

import pytest

from fairlane.schemas.headers import trace_id

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_trace_id_is_read_from_a_traceparent() -> None:
    assert trace_id(TRACE) == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("value", [TRACE + b"\n", b"\n" + TRACE, TRACE + b"\r\nx: y", b"", b"\xff", TRACE.upper()])
def test_what_is_no_traceparent_is_left_out_for_it_travels_on_to_the_provider(value: bytes) -> None:
    assert trace_id(value) is None
