"""Whether what an input got is one of the ways the oracle allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bad_input.oracle import ACCEPTED, DEAD, EXPIRED, REJECTED, Verdict, Way

PROVIDER_CODES = frozenset(
    {"provider_timeout", "provider_unavailable", "provider_rate_limited", "provider_refused", "invalid_response"}
)


def fits(got: Way, verdict: Verdict) -> bool:
    """Whether it is one of the ways that are meant: outcome, code and field, each exactly."""
    return got in verdict.ways


def one_result(results: Sequence[Mapping[str, Any]], repeats: int) -> bool:
    """Whether there is at most one result of a request that was sent again so many times.

    Who sends a request again once it is answered gets the stored answer again: the same, marked, and for nothing.
    """
    again = results[1:]
    return len(again) <= repeats and all(
        result["replayed"]
        and result["cost"]["nano_usd"] == 0
        and all(result[name] == results[0][name] for name in ("status", "response", "error"))
        for result in again
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
