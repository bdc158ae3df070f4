"""What goes wrong at a provider, as codes of the error table. Nothing of a body or a key is repeated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from pydantic_core import from_json

from fairlane.ports import ProviderError
from fairlane.schemas.errors import ErrorCode, error

RETRY_AFTER_MAX_MS = 120_000
"""A provider that asks for more is asked again after this; absurd values are known from the field."""
ERROR_BODY_BYTES = 65_536
"""How much of the body of a failure is read, to find its code."""
_TELLING = re.compile(r"[a-z][a-z0-9_.\[\]]{0,63}")
"""A code or a parameter's name: short, lower case, no blanks or dashes, so neither prose nor a key."""
_QUOTA = "insufficient_quota"
"""OpenAI's code for a 429 that waiting does not mend:
https://platform.openai.com/docs/guides/error-codes/api-errors"""


def refused(
    status: int, headers: Mapping[str, str], body: bytes, key: str | None, *, key_is_set: bool, now_ms: int
) -> ProviderError:
    """The error for an answer whose status is not 200.

    ``key`` is ``env:NAME`` as the catalog has it. 408 is the provider's own timeout; 529 is Anthropic's
    "overloaded"; the rest follows RFC 9110 section 15.
    """
    told = _told(body)
    code = told.get("code")
    said = ", ".join(f"{name} {value}" for name, value in told.items())
    message = f"the provider answered {status}" + (f" ({said})" if said else "")
    wait_ms = retry_after_ms(headers, now_ms)
    if status == 429 and code != _QUOTA:
        return ProviderError(
            error(ErrorCode.PROVIDER_RATE_LIMITED, message, retry_after_ms=wait_ms), http_status=status
        )
    if status == 408:
        return ProviderError(error(ErrorCode.PROVIDER_TIMEOUT, message), http_status=status)
    if status >= 500:
        return ProviderError(error(ErrorCode.PROVIDER_UNAVAILABLE, message, retry_after_ms=wait_ms), http_status=status)
    if status < 300:
        return ProviderError(error(ErrorCode.INVALID_RESPONSE, message + " without an answer"), http_status=status)
    hint = None
    if status in {401, 403}:
        hint = _key_hint(key, key_is_set=key_is_set)
    elif code == _QUOTA:
        hint = "The account at the provider has used up its quota: raise it there."
    elif status < 400:
        hint = "Redirects are not followed: set the provider's base_url to the final address."
    elif status == 404:
        hint = "Check the provider's base_url and the model's provider_model in the catalog."
    return ProviderError(error(ErrorCode.PROVIDER_REFUSED, message, hint=hint), http_status=status)


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """The wait a provider asks for, clamped to 0 to 120 s; None if there is none that can be read.

    ``retry-after-ms`` (OpenAI) wins over ``Retry-After``, which is seconds or an HTTP date (RFC 9110
    section 10.2.3). ``headers`` has lower-case names or does not care for case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    text = headers.get("retry-after")
    if milliseconds is None:
        seconds = _number(text)
        milliseconds = seconds * 1000 if seconds is not None else _until(text, now_ms)
    if milliseconds is None:
        return None
    return round(min(max(milliseconds, 0.0), float(RETRY_AFTER_MAX_MS)))


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None and len(text) <= 32 else math.nan
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _until(text: str | None, now_ms: int) -> float | None:
    if text is None or len(text) > 64:
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp() * 1000 - now_ms
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _told(body: bytes) -> dict[str, str]:
    """The code (else the type) and the parameter of an OpenAI error object, where they tell and are safe."""
    try:
        document = from_json(body)
    except ValueError:
        return {}
    detail = document.get("error") if isinstance(document, dict) else None
    if not isinstance(detail, dict):
        return {}
    told = {name: text for name in ("code", "type", "param") if (text := _telling(detail.get(name)))}
    if "code" in told:
        told.pop("type", None)
    return told


def _telling(value: object) -> str | None:
    return value if isinstance(value, str) and _TELLING.fullmatch(value) else None


def _key_hint(key: str | None, *, key_is_set: bool) -> str:
    if key is None:
        return "The catalog names no key for this provider: add `key: env:NAME`."
    name = key.removeprefix("env:")
    if not key_is_set:
        return f"Set {name} in the environment of the workers: it is to hold this provider's key."
    return f"Check the key in the variable {name} of the workers' environment."
