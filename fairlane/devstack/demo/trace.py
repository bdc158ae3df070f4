"""The recorded requests that the demo replays: 30 minutes of a public trace (see ``data/README.md``)."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

_MICROSECOND_DIGITS = len("2023-11-16 18:35:46.123456")
"""The trace has one digit more than datetime takes."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request. ``at_s`` is seconds after the first row of the slice."""

    at_s: float
    context_tokens: int
    generated_tokens: int


def load_trace() -> Sequence[TraceRow]:
    """The shipped slice, in order of arrival."""
    packed = resources.files("fairlane.devstack.demo").joinpath("data", "azure_conv_slice.csv.gz").read_bytes()
    return parse_trace(gzip.decompress(packed).decode())


def parse_trace(text: str) -> Sequence[TraceRow]:
    """Rows of the trace's CSV. Raises ValueError or KeyError if it is not of this form."""
    rows: list[TraceRow] = []
    first: datetime | None = None
    for fields in csv.DictReader(io.StringIO(text)):
        at = datetime.fromisoformat(fields["TIMESTAMP"][:_MICROSECOND_DIGITS])
        first = first or at
        rows.append(
            TraceRow((at - first).total_seconds(), int(fields["ContextTokens"]), int(fields["GeneratedTokens"]))
        )
    return rows
