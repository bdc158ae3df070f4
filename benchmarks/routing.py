"""The routing decision alone: from a decoded request's figures to the model, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.load import percentiles
from benchmarks.measures import Measures
from fairlane.policy.routing import Candidate, Choice, choose

MODELS = 8
DECISIONS = 20_000


def measure_routing(measures: Measures, say: Callable[[str], None]) -> None:
    """A route of eight models of which the last fits, by a tenant with patterns: the longest way through."""
    candidates = [Candidate(f"model-{n}", 8_192 if n < MODELS - 1 else 131_072, 4_096) for n in range(MODELS)]
    patterns = ["other-*", "model-?"]
    took_ms = []
    for _ in range(DECISIONS):
        began = time.perf_counter_ns()
        choice = choose("auto", candidates, patterns, input_tokens=20_000, output_limit=64, is_route=True)
        took_ms.append((time.perf_counter_ns() - began) / 1e6)
        assert isinstance(choice, Choice)
    found = percentiles(took_ms, (50, 99))
    measures.add("routing", "ms", p50=found["50"], p99=found["99"])
    say(f"routing: p50 {found['50'] * 1000:.0f} µs, p99 {found['99'] * 1000:.0f} µs for a route of {MODELS} models")
