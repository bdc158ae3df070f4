"""One line a record, for people, without bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fairlane.cli.record_text import duration, record_line, usd
from fairlane.ports import Record

AT = 1_795_000_000_123


def record(value: Any, key: bytes = b"acme/r-1") -> Record:
    return Record(
        "t", 0, 0, AT, key, value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    )


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "$0.00"),
        (8550, "$0.00000855"),
        (1, "$0.000000001"),
        (1_500_000_000, "$1.50"),
        (10**18 + 1, "$1000000000.000000001"),
    ],
)
def test_money_is_exact_to_the_nano_dollar(nano_usd: int, text: str) -> None:
    assert usd(nano_usd) == text


@pytest.mark.parametrize(("ms", "text"), [(3.14, "3.1 ms"), (4250, "4.25 s"), (125_000, "2 min 05 s")])
def test_durations_have_a_unit_that_fits(ms: float, text: str) -> None:
    assert duration(ms) == text


def test_a_result_line_says_how_it_ended_and_what_it_cost_but_not_the_answer() -> None:
    line = record_line(
        "results",
        record(
            {
                "tenant_id": "acme", "request_id": "r-1", "status": "failed", "response": {"secret": "text"},
                "error": {"code": "provider_timeout", "message": "No answer.", "field": None, "hint": "Wait."},
                "usage": {"input_tokens": 9, "output_tokens": 12}, "cost": {"nano_usd": 8550},
                "route": {"model": "sim-small"}, "timings": {"queue_ms": 3.1, "model_ms": 180.2}, "replayed": True,
            }
        ),
    )  # fmt: skip

    assert line.endswith(
        "acme  r-1  failed, sim-small, queue 3.1 ms, model 180.2 ms, 9+12 tokens, $0.00000855, replayed, "
        "provider_timeout: No answer. Wait."
    )
    assert "secret" not in line


def test_a_request_line_shows_no_prompt() -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "private"}], "max_tokens": 5}

    line = record_line("requests", record({"tenant_id": "a", "request_id": "r", "body": body}))

    assert "auto, normal, 1 messages, at most 5 tokens" in line
    assert "private" not in line


@pytest.mark.parametrize(
    ("topic", "value", "says"),
    [
        ("results", None, "deleted"),
        ("results", b"\xff", "not JSON, 1 bytes"),
        ("results", {"status": "succeeded"}, "not as its contract says"),
        ("catalog", {"kind": "pool"}, '{"kind": "pool"}'),
    ],
)
def test_a_record_that_is_not_as_expected_still_gets_its_line(topic: str, value: Any, says: str) -> None:
    assert says in record_line(topic, record(value))
