"""Asks everything of a stack whether it is ready, at this moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairlane.devstack.http_readiness import http_answers
from fairlane.devstack.identity import alive
from fairlane.devstack.port_choice import HOST, host_to_ask
from fairlane.devstack.services import SETTING_OF, given_addresses, service_answers
from fairlane.devstack.state import ProcessState, StackState, load_state
from fairlane.errors import Reject
from fairlane.settings import Settings


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage process. ``metrics`` is the URL of its figures."""

    name: str
    stage: str
    pid: int
    ready: bool
    metrics: str


@dataclass(frozen=True, slots=True)
class StackStatus:
    """What answered. ``services`` maps a service's name to its address and whether it answered."""

    phase: str
    services: dict[str, tuple[str, bool]]
    stages: tuple[StageStatus, ...]

    @staticmethod
    def of_state(state: StackState) -> StackStatus:
        """What the supervisor last saw, without asking anybody."""
        stages = (_stage(p, p.ready) for p in state.processes if p.stage)
        return StackStatus(state.phase, {n: (a, True) for n, a in state.addresses.items()}, tuple(stages))

    @property
    def ready(self) -> bool:
        """Whether the stack is up and all of it answered."""
        return (
            self.phase == "ready"
            and all(answered for _, answered in self.services.values())
            and all(stage.ready for stage in self.stages)
        )

    def as_object(self) -> dict[str, Any]:
        """The document of ``fairlane status --json``."""
        return {
            **{name: self.services.get(name, ("", False))[0] for name in SETTING_OF},
            "stages": [
                {"stage": stage.stage, "pid": stage.pid, "ready": stage.ready, "metrics": stage.metrics}
                for stage in self.stages
            ],
        }


async def stack_status(settings: Settings) -> StackStatus:
    """Ask the services, given or started, and every stage process that the state names."""
    state = load_state(Path(settings.state_dir))
    if state is not None and not state.running():
        state = None
    found = state.addresses if state is not None else {}
    addresses = {**dict.fromkeys(SETTING_OF, ""), **given_addresses(settings), **found}
    answers = await asyncio.gather(*(_ask(name, address) for name, address in addresses.items()))
    services = {name: (address, ok) for (name, address), ok in zip(addresses.items(), answers, strict=True)}
    stages = await _stages(state, host_to_ask(settings.metrics_host)) if state is not None else ()
    return StackStatus(state.phase if state is not None else "down", services, stages)


async def _ask(name: str, address: str) -> bool:
    try:
        return bool(address) and await service_answers(name, address)
    except Reject:  # what is no address does not answer
        return False


async def _stages(state: StackState, host: str) -> tuple[StageStatus, ...]:
    processes = [process for process in state.processes if process.stage]
    answers = await asyncio.gather(*(http_answers(f"http://{host}:{p.port}/readyz") for p in processes))
    return tuple(_stage(p, ok and alive(p.identity), host) for p, ok in zip(processes, answers, strict=True))


def _stage(process: ProcessState, ready: bool, host: str = HOST) -> StageStatus:
    metrics = f"http://{host}:{process.port}/metrics"
    return StageStatus(process.name, process.stage, process.identity.pid, ready, metrics)
