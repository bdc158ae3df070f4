"""The intended range of a batch: what stands in the commit metadata, and the token it is inserted under."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fairlane.ports import TopicPartition

_METADATA = re.compile(r"range:(\d{1,19})-(\d{1,19})")


@dataclass(frozen=True, slots=True)
class IntendedRange:
    """The offsets ``first`` to ``last``, both included, of one partition."""

    first: int
    last: int

    def metadata(self) -> str:
        """As it is committed beside the offset, before the insert."""
        return f"range:{self.first}-{self.last}"

    def token(self, table: str, partition: TopicPartition) -> str:
        """``insert_deduplication_token``: the same range gives the same token, whoever inserts it."""
        return f"{table}:{partition.topic}:{partition.partition}:{self.first}-{self.last}"


def parse_range(metadata: str) -> IntendedRange | None:
    """Read what :meth:`IntendedRange.metadata` wrote; None for anything else."""
    match = _METADATA.fullmatch(metadata)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    return IntendedRange(first, last) if first <= last else None
