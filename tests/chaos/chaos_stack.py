"""The stack that is tormented: services under one supervisor, stages under another, proxies between them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.devstack.artifacts import cache_path, kafka_libs, redis_server
from fairlane.devstack.clickhouse_service import clickhouse_launch
from fairlane.devstack.demo.own_stack import prepared, running
from fairlane.devstack.identity import ProcessIdentity, alive
from fairlane.devstack.java import find_java
from fairlane.devstack.kafka_service import kafka_launch
from fairlane.devstack.port_choice import HOST, PortPool
from fairlane.devstack.process import Launch
from fairlane.devstack.progress import Report, silent
from fairlane.devstack.redis_service import redis_launch
from fairlane.devstack.running import clear_leftovers
from fairlane.devstack.simulator_service import simulator_launch
from fairlane.devstack.stack_lock import stack_lock
from fairlane.devstack.state import ProcessState, load_state
from fairlane.devstack.supervisor import ProcessSpec, Supervisor
from fairlane.errors import Fatal
from fairlane.ports import TenantUsage
from fairlane.settings import Settings, load_settings
from tests.chaos.faulty_link import SOUND, FaultyLink
from tests.chaos.stack_config import CAPS, stack_config
from tests.chaos.traces import Counters, metric_sum

STAGES = ("gate", "dispatcher", "worker", "settle", "sinks")
SERVICES = ("kafka", "redis", "clickhouse", "simulator")
PROCESSES = 2
"""Of each stage."""
READY_S = 90.0
POLL_S = 0.05


def stack_settings(state_dir: Path) -> Settings:
    """The user's settings, but for what makes the stack the run's own."""
    own = replace(
        load_settings(), state_dir=str(state_dir), free_ports=True, topic_prefix="fairlane.", group_prefix="fairlane.",
        clickhouse_database="fairlane", instance="", stage_engines="",
        stage_processes=",".join(f"{stage}={PROCESSES}" for stage in STAGES),
    )  # fmt: skip
    return replace(own, kafka_bootstrap="", redis_url="", clickhouse_url="", simulator_url="")


class ChaosStack:
    """A running stack, and what can be done to it. Addresses here are the services' own, not the proxies'."""

    def __init__(
        self, settings: Settings, stage_settings: Settings, services_dir: Path, links: dict[str, FaultyLink]
    ) -> None:
        self.settings = settings
        self.stage_settings = stage_settings
        """What the stages run with: their addresses are those of the links."""
        self.services_dir = services_dir
        self.stages_dir = Path(settings.state_dir)
        self.links = links
        self.store = RedisAdmissionStore(settings.redis_url, settings.topic_prefix)
        self.http: aiohttp.ClientSession = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))

    async def close(self) -> None:
        """Close connections and mend the links."""
        await self.store.close()
        await self.http.close()

    async def mend(self) -> None:
        """All links sound again."""
        for link in self.links.values():
            await link.set(SOUND)

    def processes(self) -> dict[str, ProcessState]:
        """Every process of the stack as last seen by its supervisor, by name. Raises Fatal if a supervisor ended."""
        found: dict[str, ProcessState] = {}
        for directory in (self.services_dir, self.stages_dir):
            state = load_state(directory)
            if state is None or state.phase != "ready":
                raise Fatal(f"the stack in {directory} is not running; see its logs")
            found |= {process.name: process for process in state.processes}
        return found

    def of_stage(self, stage: str) -> list[str]:
        """The names of a stage's processes."""
        return sorted(name for name, process in self.processes().items() if process.stage == stage)

    def signal(self, names: Iterable[str], number: signal.Signals) -> dict[str, ProcessIdentity]:
        """Send a signal to processes, all at once; returns whom it was sent to."""
        processes = self.processes()
        sent = {name: processes[name].identity for name in names}
        for name, identity in sent.items():
            if not alive(identity):
                raise Fatal(f"{name} (pid {identity.pid}) is not running, so it cannot be sent {number.name}")
            os.kill(identity.pid, number)
        return sent

    def resume(self, stopped: dict[str, ProcessIdentity]) -> bool:
        """SIGCONT to those that are still the same; returns whether all are."""
        same = [identity for identity in stopped.values() if alive(identity)]
        for identity in same:
            os.kill(identity.pid, signal.SIGCONT)
        return len(same) == len(stopped)

    async def all_ready(self, but: dict[str, ProcessIdentity] | None = None, timeout_s: float = READY_S) -> None:
        """Wait until every process is ready, and those of ``but`` are others than these. Raises Fatal."""
        deadline = time.monotonic() + timeout_s
        while True:
            processes = self.processes()
            waiting = [
                name
                for name, process in processes.items()
                if not process.ready or not alive(process.identity) or (but or {}).get(name) == process.identity
            ]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise Fatal(f"{', '.join(waiting)} did not come back within {timeout_s:.0f} s")
            await asyncio.sleep(POLL_S)

    def restarts(self) -> int:
        """How often a process was started again."""
        return sum(process.restarts for process in self.processes().values())

    async def usage(self) -> dict[str, TenantUsage]:
        """Live figures of all tenants. Raises Retry while Redis is away."""
        return dict(zip(CAPS, await self.store.usage(list(CAPS)), strict=True))

    async def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query. Raises OSError while ClickHouse is away."""
        import json

        params = {"query": f"{query} FORMAT JSONEachRow", "database": self.settings.clickhouse_database}
        try:
            async with self.http.post(self.settings.clickhouse_url, params=params) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as failure:
            raise OSError(f"ClickHouse does not answer: {type(failure).__name__}") from failure
        if response.status != 200:
            raise OSError(f"ClickHouse refused: {text[:200]}")
        return [json.loads(line) for line in text.splitlines()]

    async def provider_calls(self) -> int:
        """Calls the simulator has counted, and those that were answered on the way to it."""
        address = self.settings.simulator_url.rstrip("/").removesuffix("/v1")
        async with self.http.get(f"{address}/stats") as response:
            return int((await response.json())["calls"]) + self.links["provider"].answered

    async def counters(self, stage: str, name: str, **labels: str) -> Counters:
        """A metric of every process of a stage that answers; empty ``stage``: of all stages."""
        found: dict[str, tuple[ProcessIdentity, float]] = {}
        for process in self.processes().values():
            if process.stage and stage in ("", process.stage):
                try:
                    async with self.http.get(f"http://{HOST}:{process.port}/metrics") as response:
                        text = await response.text()
                except (aiohttp.ClientError, TimeoutError):
                    continue
                found[process.name] = (process.identity, metric_sum(text, name, **labels))
        return found


@contextmanager
def usual_disk(_data: Path) -> Iterator[None]:
    """The services' data stays where it is."""
    yield


@asynccontextmanager
async def chaos_stack(
    state_dir: Path, disks: Callable[[Path], AbstractContextManager[None]] = usual_disk
) -> AsyncIterator[ChaosStack]:
    """Bring a fresh stack up in ``state_dir``, and take it down when the block ends.

    ``disks`` is given the directory of the services' data, still empty. Call it in the main thread.
    Raises Fatal where something does not come up.
    """
    services_dir, stages_dir = state_dir / "services", state_dir / "stages"
    async with AsyncExitStack() as stack:
        settings = stack_settings(services_dir)
        stack.enter_context(stack_lock(services_dir))
        clear_leftovers(services_dir, silent)
        for name in ("data", "logs"):
            shutil.rmtree(services_dir / name, ignore_errors=True)
        (services_dir / "data").mkdir(parents=True)
        stack.enter_context(disks(services_dir / "data"))
        services = await stack.enter_async_context(running(settings, _services(settings)))
        own = services.settings
        targets = {
            "redis": own.redis_url.removeprefix("redis://").partition("/")[0],
            "clickhouse": own.clickhouse_url.removeprefix("http://"),
            "provider": own.simulator_url.removeprefix("http://").partition("/")[0],
        }
        links = {name: FaultyLink(target) for name, target in targets.items()}
        for link in links.values():
            await link.start()
            stack.push_async_callback(link.stop)
        given = replace(
            own, state_dir=str(stages_dir),
            redis_url=f"redis://{links['redis'].address}/0", clickhouse_url=f"http://{links['clickhouse'].address}",
            simulator_url=f"http://{links['provider'].address}/v1",
        )  # fmt: skip
        supervisor = stack.enter_context(prepared(given, _told(stages_dir), stack_config()))
        await stack.enter_async_context(running(given, supervisor))
        chaos = ChaosStack(replace(own, state_dir=str(stages_dir)), given, services_dir, links)
        stack.push_async_callback(chaos.close)
        # Undone first: stages that drain into a broken link would be waited for.
        stack.push_async_callback(chaos.mend)
        yield chaos


def _told(directory: Path) -> Report:
    """What a supervisor tells, with the time, in a file of its log directory."""
    file = directory / "logs" / "supervisor.log"

    def report(part: str, message: str, *, done: bool = False) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as out:
            out.write(f"{datetime.now(UTC):%H:%M:%S.%f} {part}: {message}\n")

    return report


def redis_must_start_empty(services_dir: Path) -> Path:
    """While this file is there, Redis starts without its data."""
    return services_dir / "redis-must-start-empty"


def _services(settings: Settings) -> Supervisor:
    directory = Path(settings.state_dir)
    data, cache, ports = directory / "data", cache_path(settings.cache_dir), PortPool(free=True)
    java, libs, binary = find_java(), kafka_libs(cache), redis_server(cache)

    def redis(port: int) -> Launch:
        if redis_must_start_empty(directory).exists():
            shutil.rmtree(data / "redis", ignore_errors=True)
        return redis_launch(binary, data / "redis", port)

    launches: dict[str, Callable[[int], Launch]] = {
        "kafka": lambda port: kafka_launch(java, libs, data / "kafka", port, ports.choose(0), settings.kafka_heap),
        "redis": redis,
        "clickhouse": lambda port: clickhouse_launch(data / "clickhouse", port),
        "simulator": simulator_launch,
    }

    def spec(name: str, launch: Callable[[int], Launch]) -> ProcessSpec:
        rank = ("simulator", "clickhouse", "redis", "kafka").index(name)
        return ProcessSpec(name, lambda kept: launch(kept or ports.choose(0)), stop_rank=rank)

    specs = [spec(name, launch) for name, launch in launches.items()]
    return Supervisor(specs, [], directory, _told(directory), {}, {})


async def eventually(holds: Callable[[], Awaitable[bool]], timeout_s: float, every_s: float = 0.25) -> bool:
    """Whether it came to hold within the time."""
    deadline = time.monotonic() + timeout_s
    while not await holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every_s)
    return True
