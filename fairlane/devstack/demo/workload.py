"""From the trace to requests of five tenants, one of which floods. Pure: a seed decides everything."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fairlane.devstack.demo.trace import TraceRow
from fairlane.schemas.request import REQUEST_SCHEMA

CONTEXT_TOKENS_MAX = 4096
"""Longer prompts (1 % of the trace) are cut here, so that no record is much larger than 16 KiB."""
MAX_TOKENS = 1024
"""What callers allow: the trace's longest answer has 1000 tokens, and callers do not know theirs ahead."""
BYTES_PER_TOKEN = 4
DEFAULT_SPEED = 20.0
"""Recorded seconds per second: about 145 requests per second on average."""

_WORDS = (
    "our team asks for a short summary of each ticket with the reason it was opened and what the customer "
    "would like to see next so that the people who answer have the context they need before they write "
)


@dataclass(frozen=True, slots=True)
class DemoTenant:
    """A tenant of the demo. ``rate`` is relative to a light tenant's."""

    tenant_id: str
    model: str
    rate: int = 1

    @property
    def floods(self) -> bool:
        """Whether this is the one that asks for far more than its share."""
        return self.rate > 1


TENANTS = (
    DemoTenant("crawler", "auto", rate=100),
    DemoTenant("search", "auto"),
    DemoTenant("support", "auto"),
    DemoTenant("mobile", "auto"),
    DemoTenant("research", "sim-large"),
)
"""As in ``data/tenants.yaml``, which a test compares."""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request and when it is sent, in seconds after the replay's start."""

    at_s: float
    tenant: DemoTenant
    request_id: str
    context_tokens: int
    output_tokens: int

    def event(self) -> dict[str, Any]:
        """The request event. The simulator answers with as many tokens as were recorded."""
        return {
            "schema": REQUEST_SCHEMA,
            "request_id": self.request_id,
            "tenant_id": self.tenant.tenant_id,
            "labels": {"source": "azure-llm-trace-2023"},
            "body": {
                "model": self.tenant.model,
                "messages": [{"role": "user", "content": prompt_of(self.context_tokens)}],
                "max_tokens": MAX_TOKENS,
                "metadata": {"sim_output_tokens": str(self.output_tokens)},
            },
        }

    def value(self) -> bytes:
        """The record's value."""
        return json.dumps(self.event(), separators=(",", ":")).encode()


def plan(
    trace: Sequence[TraceRow],
    *,
    seconds: float,
    speed: float = DEFAULT_SPEED,
    tenants: Sequence[DemoTenant] = TENANTS,
    seed: int = 20231116,
    run: str = "demo",
) -> Iterator[PlannedRequest]:
    """Requests in order of time: the trace's own arrivals, ``speed`` times as fast, for ``seconds``.

    Each is dealt to a tenant at random by rate; request ids start with ``run``. A trace that is too
    short starts again. Raises ValueError for an empty trace.
    """
    if not trace:
        raise ValueError("the trace has no rows")
    chance = random.Random(seed)
    rates = [tenant.rate for tenant in tenants]
    span_s = trace[-1].at_s + trace[-1].at_s / len(trace)
    number = 0
    while True:
        round_number, index = divmod(number, len(trace))
        row = trace[index]
        at_s = (round_number * span_s + row.at_s) / speed
        if at_s >= seconds:
            return
        (tenant,) = chance.choices(tenants, rates)
        context = min(max(row.context_tokens, 1), CONTEXT_TOKENS_MAX)
        yield PlannedRequest(at_s, tenant, f"{run}-{number:05d}", context, max(row.generated_tokens, 1))
        number += 1
        if span_s == 0 and number >= len(trace):
            return


def prompt_of(tokens: int) -> str:
    """Words of ``tokens`` times four bytes: the length by which prompts are counted where no tokenizer is."""
    size = tokens * BYTES_PER_TOKEN
    return (_WORDS * (size // len(_WORDS) + 1))[:size]
