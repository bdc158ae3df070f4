"""The benchmark's own stack: fresh data, free ports, its own tenants and catalog, gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, bench_config
from fairlane.devstack.demo.own_stack import prepared, running
from fairlane.devstack.log_file import tail
from fairlane.devstack.process import ChildProcess, Launch, start
from fairlane.devstack.progress import silent
from fairlane.devstack.state import load_state
from fairlane.devstack.supervisor import Supervisor
from fairlane.errors import Fatal
from fairlane.settings import Settings, load_settings

STATE_DIR = Path(".fairlane") / "bench"


def bench_settings(**changes: Any) -> Settings:
    """The user's settings, but for what makes the stack the benchmark's own."""
    own = {"state_dir": str(STATE_DIR), "free_ports": True, "topic_prefix": "fairlane.", "group_prefix": "fairlane."}
    given = {"kafka_bootstrap": "", "redis_url": "", "clickhouse_url": "", "simulator_url": "", "instance": ""}
    return replace(load_settings(), **{**own, **given, "clickhouse_database": "fairlane", **changes})


@dataclass(frozen=True, slots=True)
class BenchStack:
    """A running stack. Processes started here end with this one, whatever happens."""

    settings: Settings

    @property
    def state_dir(self) -> Path:
        """Where its state, data and logs are."""
        return Path(self.settings.state_dir)

    def pids(self) -> dict[str, int]:
        """Process ids by process name. Raises Fatal where one was restarted: then the figures are void."""
        state = load_state(self.state_dir)
        if state is None:
            raise Fatal(f"no state in {self.state_dir}")
        if restarted := [process.name for process in state.processes if process.restarts]:
            raise Fatal(f"{', '.join(restarted)} crashed during the benchmark; see {self.state_dir}/logs")
        return {process.name: process.identity.pid for process in state.processes}

    async def offer(self, case: Case) -> dict[str, Any]:
        """Offer the load of a case from a process of its own; returns what it measured."""
        order_file, out_file = self.state_dir / "order.json", self.state_dir / "measured.json"
        order = {
            "kafka": self.settings.kafka_bootstrap,
            "topic_prefix": self.settings.topic_prefix,
            # Request ids begin with it, and have no spaces.
            "run": f"{re.sub(r'[^a-z0-9]+', '-', case.name.lower())}-{uuid.uuid4().hex[:6]}",
            "case": asdict(case),
        }
        order_file.write_text(json.dumps(order))
        out_file.unlink(missing_ok=True)
        async with child("load", ["-m", "benchmarks.load", str(order_file), str(out_file)], self.state_dir) as load:
            code = await load.ended()
            if code != 0 or not out_file.exists():
                raise Fatal(f"the load generator ended with exit code {code}{tail(load.log)}")
        measured: dict[str, Any] = json.loads(out_file.read_text())
        if not measured["answered"]:
            raise Fatal(f"{case.name}: none of {measured['requests']} requests was answered; see {self.state_dir}/logs")
        measured["run"] = order["run"]
        return measured


@asynccontextmanager
async def child(
    name: str, arguments: list[str], state_dir: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """A Python process that ends with this one; killed when the block ends. Call from the main thread."""

    async def never() -> bool:
        return False

    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))))
    launch = Launch([sys.executable, *arguments], never, 0, {"PYTHONPATH": path, **(env or {})})
    process = start(launch, state_dir / "logs" / f"{name}.log")
    try:
        yield process
    finally:
        process.kill()
        await process.ended()


@contextmanager
def own_stack(settings: Settings) -> Iterator[Supervisor]:
    """A supervisor for a fresh stack with the benchmark's tenants; call it outside of an event loop."""
    with prepared(settings, silent, bench_config()) as supervisor:
        yield supervisor


@asynccontextmanager
async def running_stack(settings: Settings, supervisor: Supervisor) -> AsyncIterator[BenchStack]:
    """Bring it up, and take it down when the block ends; ends the block where the stack stops by itself."""
    async with running(settings, supervisor) as stack:
        task = asyncio.current_task()
        assert task is not None
        stopped = False

        def on_end(_ended: asyncio.Task[None]) -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        stack.ended.add_done_callback(on_end)
        try:
            yield BenchStack(stack.settings)
        except asyncio.CancelledError:
            if stopped:
                stack.ended.result()
                raise Fatal(f"the stack stopped during the benchmark; its logs are in {settings.state_dir}") from None
            raise
        finally:
            stack.ended.remove_done_callback(on_end)
