"""What a model of the simulator does, read from its name.

========================  ==========================================================================
``sim-small``             first token after 50 ms, then 400 tokens/s
``sim-large``             first token after 200 ms, then 100 tokens/s
``sim-slow``              first token after 1 s, then 20 tokens/s
``sim-instant``           no delay at all
``sim-flaky-N``           as sim-small, but N % of the calls fail with 500 (by a hash, repeatable)
``sim-429[-S]``           429 with ``Retry-After: S`` (1)
``sim-NNN``               this status, 400 to 599, for example ``sim-500``, ``sim-503``, ``sim-529``
``sim-quota``             429 for a used-up quota, which no waiting mends
``sim-refuse``            400: the request itself is refused
``sim-hang``              takes the request and never answers
``sim-drip``              answers one byte every 50 ms
``sim-cut``               closes the connection in the middle of the answer
``sim-badjson``           200 with broken JSON
``sim-notchat``           200 with JSON that is no chat completion
``sim-nousage``           as sim-instant, but without usage
``sim-huge``              200 with an answer of 64 MiB
========================  ==========================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

LISTED_MODELS = (
    "sim-small", "sim-large", "sim-slow", "sim-instant", "sim-flaky-20", "sim-429", "sim-500", "sim-503", "sim-529",
    "sim-quota", "sim-refuse", "sim-hang", "sim-drip", "sim-cut", "sim-badjson", "sim-notchat", "sim-nousage",
    "sim-huge",
)  # fmt: skip
"""What ``GET /v1/models`` lists; of the families one example each."""


class Fault(StrEnum):
    """How an answer goes wrong."""

    NONE = "none"
    STATUS = "status"
    FLAKY = "flaky"
    QUOTA = "quota"
    HANG = "hang"
    DRIP = "drip"
    CUT = "cut"
    BAD_JSON = "badjson"
    NOT_CHAT = "notchat"
    NO_USAGE = "nousage"
    HUGE = "huge"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Speed and fault of a model. ``tokens_per_s`` is infinite where tokens take no time."""

    first_token_ms: float
    tokens_per_s: float
    fault: Fault = Fault.NONE
    status: int = 200
    percent: int = 0
    retry_after_s: int | None = None


_SMALL = Behaviour(first_token_ms=50, tokens_per_s=400)
_INSTANT = Behaviour(first_token_ms=0, tokens_per_s=math.inf)
_NAMED = {
    "small": _SMALL,
    "large": Behaviour(first_token_ms=200, tokens_per_s=100),
    "slow": Behaviour(first_token_ms=1000, tokens_per_s=20),
    "instant": _INSTANT,
    "refuse": replace(_INSTANT, fault=Fault.STATUS, status=400),
} | {
    fault.value: replace(_INSTANT, fault=fault)
    for fault in Fault
    if fault not in {Fault.NONE, Fault.STATUS, Fault.FLAKY}
}


def behaviour_of(model: str) -> Behaviour | None:
    """The behaviour of a model, or None if the simulator has no model of this name."""
    family, _, rest = model.partition("-")
    if family != "sim":
        return None
    if rest in _NAMED:
        return _NAMED[rest]
    name, _, number = rest.partition("-")
    if name == "flaky" and _is_number(number) and int(number) <= 100:
        return replace(_SMALL, fault=Fault.FLAKY, status=500, percent=int(number))
    if name == "429" and (not number or _is_number(number)):
        return replace(_INSTANT, fault=Fault.STATUS, status=429, retry_after_s=int(number or 1))
    if not number and _is_number(name) and 400 <= int(name) <= 599:
        return replace(_INSTANT, fault=Fault.STATUS, status=int(name))
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6
