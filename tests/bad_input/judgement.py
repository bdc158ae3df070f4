"""Whether what an input got is one of the ways the oracle allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.bad_input.oracle import ACCEPTED, DEAD, EXPIRED, REJECTED, Verdict, Way

PROVIDER_CODES = frozenset(
    {"provider_timeout", "provider_unavailable", "provider_rate_limited", "provider_refused", "invalid_response"}
)


def fits(got: Way, verdict: Verdict) -> bool:
    """Whether one of the ways is meant: the same outcome and code, and the field or one it stands in or above."""
    return any(
        got.outcome == way.outcome and got.code == way.code and _same_field(got.field, way.field)
        for way in verdict.ways
    )


def way_of_result(result: Mapping[str, Any]) -> Way:
    """What a terminal result says became of its request."""
    status, error = result["status"], result["error"] or {}
    if status == "succeeded" or (status == "failed" and error.get("code") in PROVIDER_CODES):
        return Way(ACCEPTED)
    outcome = {"rejected": REJECTED, "expired": EXPIRED}.get(status, status)
    return Way(outcome, error.get("code"), error.get("field"))


def way_of_letter(letter: Mapping[str, Any]) -> Way:
    """What a dead letter says of its record."""
    return Way(DEAD, letter["error"]["code"], letter["error"]["field"])


def _same_field(got: str | None, meant: str | None) -> bool:
    if got == meant or got is None or meant is None:
        return got == meant
    return got.startswith(f"{meant}.") or meant.startswith(f"{got}.")
