"""THE topology: one row a stage. Groups, wiring, the documentation and its picture come from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fairlane.schemas import topics
from fairlane.schemas.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage: the engine that feeds it, what it consumes as a group, what it follows, what it writes."""

    name: str
    engine: Literal["faust", "loop", "sink"]
    inputs: tuple[TopicSpec, ...]
    follows: tuple[TopicSpec, ...]
    outputs: tuple[TopicSpec, ...]
    dead_letter: TopicSpec | None
    purpose: str

    def group(self, prefix: str) -> str:
        """The consumer group of the stage."""
        return prefix + self.name


GATE = StageSpec(
    name="gate",
    engine="loop",
    inputs=(topics.REQUESTS,),
    follows=(topics.TENANTS, topics.CATALOG),
    outputs=(topics.LANES, topics.RESULTS, topics.DECISIONS),
    dead_letter=topics.DEAD_LETTERS,
    purpose="decodes, admits, holds the price, routes",
)
DISPATCHER = StageSpec(
    name="dispatcher",
    engine="loop",
    inputs=(topics.LANES,),
    follows=(topics.RESULTS, topics.COMMANDS, topics.TENANTS, topics.CATALOG),
    outputs=(topics.INBOX, topics.DECISIONS, topics.RESULTS, topics.SCHEDULER_STATE),
    dead_letter=topics.DEAD_LETTERS,
    purpose="picks the next request fairly when a slot is free",
)
WORKER = StageSpec(
    name="worker",
    engine="loop",
    inputs=(topics.INBOX,),
    follows=(topics.TENANTS, topics.CATALOG),
    outputs=(topics.ATTEMPTS, topics.CHUNKS, topics.RESULTS, topics.DECISIONS),
    dead_letter=topics.DEAD_LETTERS,
    purpose="calls the model",
)
SETTLE = StageSpec(
    name="settle",
    engine="faust",
    inputs=(topics.RESULTS,),
    follows=(topics.TENANTS, topics.CATALOG),
    outputs=(topics.RESULTS,),
    dead_letter=None,
    purpose="releases holds, books costs, keeps answers",
)
SINKS = StageSpec(
    name="sinks",
    engine="sink",
    inputs=(topics.RESULTS, topics.ATTEMPTS, topics.DECISIONS, topics.DEAD_LETTERS),
    follows=(topics.TENANTS, topics.CATALOG),
    outputs=(),
    dead_letter=None,
    purpose="writes every public record to ClickHouse, once",
)

STAGES: tuple[StageSpec, ...] = (GATE, DISPATCHER, WORKER, SETTLE, SINKS)


def stage(name: str) -> StageSpec:
    """The row of that name. Raises KeyError naming those there are."""
    for spec in STAGES:
        if spec.name == name:
            return spec
    raise KeyError(f"no stage {name}; there are {', '.join(spec.name for spec in STAGES)}")


ON_EITHER_ENGINE = (GATE.name, SETTLE.name)
"""The dispatcher needs an assignor of its own, the sinks their own commits; a worker's records finish in any order."""


def on_engines(spec: StageSpec, engines: str) -> StageSpec:
    """The row with the engine that ``engines`` names for it, as ``gate=loop,settle=loop``.

    Raises ValueError for a stage or an engine that cannot be.
    """
    for part in filter(None, (part.strip() for part in engines.split(","))):
        name, _, engine = part.partition("=")
        if name not in ON_EITHER_ENGINE or engine not in ("faust", "loop"):
            raise ValueError(f"{part!r} is not STAGE=ENGINE, with faust or loop for {' or '.join(ON_EITHER_ENGINE)}")
        if name == spec.name:
            spec = replace(spec, engine="loop" if engine == "loop" else "faust")
    return spec
