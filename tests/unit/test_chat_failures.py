"""How a provider's status, headers and error object become a code, a wait and a hint."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.adapters.chat_failures import RETRY_AFTER_MAX_MS, refused, retry_after_ms
from fairlane.ports import ProviderError
from fairlane.schemas.errors import ErrorCode

NOW_MS = 1_795_197_600_000  # 2026-11-20T18:00:00Z


def failure(status: int, body: bytes = b"", key: str | None = None, **headers: str) -> ProviderError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refused(status, named, body, key, key_is_set=False, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("3", 3_000),
        ("0.25", 250),
        ("-5", 0),
        ("100000", RETRY_AFTER_MAX_MS),
        ("1e400", RETRY_AFTER_MAX_MS),
        ("Fri, 20 Nov 2026 18:00:02 GMT", 2_000),
        ("Fri, 20 Nov 2026 17:59:00 GMT", 0),
        ("Fri, 20 Nov 2099 18:00:00 GMT", RETRY_AFTER_MAX_MS),
        ("Friday, 20-Nov-26 18:00:01 GMT", 1_000),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("Fri, 99 Nov 2026 18:00:02 GMT", None),
        ("9" * 5_000, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_is_ignored(text: str, milliseconds: int | None) -> None:
    assert retry_after_ms({"retry-after": text}, NOW_MS) == milliseconds


def test_milliseconds_win_over_seconds() -> None:
    assert retry_after_ms({"retry-after": "3", "retry-after-ms": "40"}, NOW_MS) == 40


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_header_value_breaks_the_reading_of_a_wait(seconds: str, milliseconds: str) -> None:
    wait = retry_after_ms({"retry-after": seconds, "retry-after-ms": milliseconds}, NOW_MS)
    assert wait is None or 0 <= wait <= RETRY_AFTER_MAX_MS


@given(st.binary(max_size=200), st.integers(201, 599))
def test_no_error_body_breaks_the_classification_or_shows_in_it(body: bytes, status: int) -> None:
    assert failure(status, body).detail.message.startswith(f"the provider answered {status}")


@given(st.text(min_size=1, max_size=80))
def test_of_an_error_object_only_identifiers_are_repeated(text: str) -> None:
    message = failure(400, orjson.dumps({"error": {"message": text, "code": text, "param": text}})).detail.message
    assert message == "the provider answered 400" or (text.isascii() and text == text.lower() and " " not in text)


def test_a_key_in_place_of_a_code_is_not_repeated() -> None:
    body = orjson.dumps({"error": {"code": "sk-proj-abcdef", "param": "Bearer abc"}})
    assert failure(401, body).detail.message == "the provider answered 401"


def test_overload_tells_its_wait_too() -> None:
    detail = failure(503, retry_after="2").detail
    assert (detail.code, detail.retry_after_ms, detail.retryable) == (ErrorCode.PROVIDER_UNAVAILABLE, 2_000, True)


def test_a_used_up_quota_is_no_rate_limit_because_waiting_does_not_help() -> None:
    detail = failure(429, b'{"error": {"code": "insufficient_quota"}}', retry_after="1").detail
    assert (detail.code, detail.retryable, detail.retry_after_ms) == (ErrorCode.PROVIDER_REFUSED, False, None)


@pytest.mark.parametrize(
    ("key", "is_set", "hint"),
    [
        (None, False, "The catalog names no key"),
        ("env:ACME_KEY", False, "Set ACME_KEY in the environment"),
        ("env:ACME_KEY", True, "Check the key in the variable ACME_KEY"),
    ],
)
def test_a_refused_key_says_where_to_look(key: str | None, is_set: bool, hint: str) -> None:
    detail = refused(403, {}, b"", key, key_is_set=is_set, now_ms=NOW_MS).detail
    assert detail.hint is not None
    assert detail.hint.startswith(hint)
