"""What a takeover of the flooded pool cost: how long nobody dispatched, slots, and the gap between tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.fault import Scene
from tests.chaos.log_observer import Seen


@dataclass(slots=True)
class Takeovers:
    """``steps``: when each began and ended, in seconds since the epoch."""

    steps: list[tuple[float, float]] = field(default_factory=list)

    def judge(self, since: Mapping[str, Sequence[Seen]], _all: Mapping[str, Sequence[Seen]], scene: Scene) -> None:
        """Add what was measured to the scene's notes, what was wrong to its failures."""
