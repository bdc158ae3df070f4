"""``fairlane.scheduler-state.v1``: a pool's counters, so that a new owner goes on where the old stopped."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fairlane.schemas.base import Timestamp, WireModel

SCHEDULER_STATE_SCHEMA = "fairlane.scheduler-state.v1"


class SchedulerState(WireModel):
    """Keyed by pool on a compacted topic. Counters are normalised service (cost units / weight)."""

    schema_: Literal["fairlane.scheduler-state.v1"] = Field(default="fairlane.scheduler-state.v1", alias="schema")
    pool: str
    epoch: int
    event_time: Timestamp
    counters: dict[str, float]
    floor: float
    predicted_output: dict[str, float]
