"""What is known about a stack from outside its supervisor: one JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fairlane.devstack.identity import ProcessIdentity, alive, kill_group
from fairlane.errors import Reject, Retry
from fairlane.settings import Settings

STATE_FILE = "state.json"
LOG_DIR = "logs"
Phase = Literal["starting", "ready", "stopping", "down", "failed"]


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One process as the supervisor last saw it. ``port`` is where it answers; ``stage`` is empty for services."""

    name: str
    stage: str
    identity: ProcessIdentity
    port: int
    ready: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class StackState:
    """A running stack. ``addresses`` has ``kafka``, ``redis``, ``clickhouse`` and ``simulator`` as far as known."""

    supervisor: ProcessIdentity
    phase: Phase
    addresses: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[ProcessState, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    """By process name; kept when the stack stops, so that the next one is found where this one was."""
    failure: str = ""

    def save(self, state_dir: Path) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        state_dir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".state.", dir=state_dir)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(self), file, indent=2)
            Path(name).replace(state_dir / STATE_FILE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def running(self) -> bool:
        """Whether its supervisor is alive."""
        return alive(self.supervisor)


def load_state(state_dir: Path) -> StackState | None:
    """The last state written; None where there is none, or what is there cannot be read as one."""
    try:
        raw = json.loads((state_dir / STATE_FILE).read_text())
        return StackState(
            supervisor=ProcessIdentity(**raw["supervisor"]),
            phase=raw["phase"],
            addresses=dict(raw["addresses"]),
            processes=tuple(_process(row) for row in raw["processes"]),
            ports=dict(raw["ports"]),
            failure=raw["failure"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _process(row: dict[str, Any]) -> ProcessState:
    return ProcessState(**{**row, "identity": ProcessIdentity(**row["identity"])})


def reap(state: StackState) -> list[str]:
    """Kill what a dead supervisor left, by pid and start time; returns the names of what was killed."""
    if state.running():
        raise Reject(f"the supervisor (pid {state.supervisor.pid}) is alive: stop it with `fairlane down`")
    return [process.name for process in state.processes if kill_group(process.identity)]


def with_addresses(settings: Settings, *, need: Sequence[str] = ()) -> Settings:
    """Settings with the addresses of the running stack where none is set.

    Raises Retry where neither gives any address, or none for a setting named in ``need``.
    """
    state = load_state(Path(settings.state_dir))
    found = state.addresses if state is not None and state.running() else {}
    filled = replace(
        settings,
        kafka_bootstrap=settings.kafka_bootstrap or found.get("kafka", ""),
        redis_url=settings.redis_url or found.get("redis", ""),
        clickhouse_url=settings.clickhouse_url or found.get("clickhouse", ""),
        simulator_url=settings.simulator_url or found.get("simulator", ""),
    )
    missing = [name for name in need if not getattr(filled, name)]
    if not (filled.kafka_bootstrap or filled.redis_url or filled.clickhouse_url):
        missing.append("kafka_bootstrap")
    if missing:
        raise Retry(f"no stack runs in {settings.state_dir}: run `fairlane up`, or set FAIRLANE_{missing[0].upper()}")
    return filled
