"""What is known about a run of the demo, source by source, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Key = tuple[str, str]
"""Tenant and request id."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal answer to a request, as the log or ClickHouse has it. Amounts are nano-dollars.

    ``received_ms`` and ``completed_ms`` are milliseconds since the epoch. ``partition`` and ``offset``
    are those of the record on ``results``; -1 where the source does not know them.
    """

    tenant_id: str
    request_id: str
    status: str
    error_code: str | None
    cost_nano_usd: int
    input_tokens: int
    output_tokens: int
    queue_ms: float
    model_ms: float
    added_ms: float
    received_ms: int
    completed_ms: int
    model: str | None = None
    partition: int = -1
    offset: int = -1

    @property
    def key(self) -> Key:
        """Tenant and request id."""
        return self.tenant_id, self.request_id

    @property
    def tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Ledger:
    """A tenant's figures in Redis, in nano-dollars and records; spent is what this run added."""

    spent_nano_usd: int
    held_nano_usd: int
    undispatched: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Everything the verdict is computed from.

    ``sent`` are the requests Kafka acknowledged, ``unsure`` those of which nobody can say (the
    acknowledgement failed). ``log`` holds every record of this run on ``results``, ``rows`` every row
    of ClickHouse's ``requests``.
    """

    sent: Sequence[Key]
    log: Sequence[Terminal]
    rows: Sequence[Terminal]
    ledgers: Mapping[str, Ledger]
    flooder: str
    unsure: frozenset[Key] = field(default_factory=frozenset)
    dead_letters: int = 0


def winners(log: Sequence[Terminal]) -> dict[Key, Terminal]:
    """The one terminal of each request: of the records of a key, the one with the lowest offset.

    Records of a key share a partition, so their offsets can be compared.
    """
    first: dict[Key, Terminal] = {}
    for terminal in log:
        known = first.get(terminal.key)
        if known is None or terminal.offset < known.offset:
            first[terminal.key] = terminal
    return first


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
