"""The whole stack as a plan for the supervisor: which services, which stages, in which order."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fairlane.devstack.artifacts import cache_path, kafka_libs, redis_server
from fairlane.devstack.clickhouse_service import clickhouse_launch
from fairlane.devstack.http_readiness import http_answers
from fairlane.devstack.java import find_java
from fairlane.devstack.kafka_service import kafka_launch
from fairlane.devstack.port_choice import PortPool, bindable, host_to_ask
from fairlane.devstack.process import Launch
from fairlane.devstack.progress import Report
from fairlane.devstack.redis_service import redis_launch
from fairlane.devstack.services import SETTING_OF, await_given, given_addresses, variable_of
from fairlane.devstack.simulator_service import simulator_launch, simulator_url
from fairlane.devstack.state import load_state
from fairlane.devstack.supervisor import ProcessSpec, Step, Supervisor
from fairlane.errors import Reject
from fairlane.settings import ENV_PREFIX, Settings
from fairlane.streams.topology import STAGES

if TYPE_CHECKING:
    from fairlane.devstack.first_config import FirstConfig

KAFKA_PORT = 9092
CONTROLLER_PORT = 9093
REDIS_PORT = 6379
CLICKHOUSE_PORT = 8123
SIMULATOR_PORT = 9999

GIVEN_STEP = "given services"
LOG_STEP = "topics and configuration"
TABLES_STEP = "tables"
STOP_ORDER = ("stages", "simulator", "clickhouse", "redis", "kafka")
"""What writes stops before what it writes to."""
NICE = {"sinks": 3, "settle": 2}
"""Stages that no answer waits for make room where cores are scarce: rows and released holds come a little later, and
late ones are taken together, which costs less."""
ALIVE_TIMEOUT_S = 5.0
"""A busy stage answers late; one that hangs not at all."""
DRAIN_MARGIN_S = 5.0
"""A stage that used its whole drain time still commits and leaves its groups."""


def stage_counts(text: str) -> dict[str, int]:
    """``gate=1,worker=2`` as a mapping; raises Reject for what is not one."""
    known = [spec.name for spec in STAGES]
    counts: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, count = part.partition("=")
        if name not in known or not count.isdecimal() or name in counts or int(count) > 100:
            raise Reject(
                f"FAIRLANE_STAGE_PROCESSES: {part!r} is not STAGE=COUNT (0 to 100), once for each of {', '.join(known)}"
            )
        counts[name] = int(count)
    return counts


def settings_environment(settings: Settings) -> dict[str, str]:
    """The variables that make a child process read the same settings, whatever they came from."""
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    return {
        ENV_PREFIX + name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
    }


def build_supervisor(settings: Settings, report: Report, first: FirstConfig | None = None) -> Supervisor:
    """The supervisor of the stack these settings describe. Fetches what is missing, which may take a while.

    ``first`` is what is applied where nothing is applied yet; None: the packaged tenants and catalog.
    Raises Reject for settings that cannot be, Fatal where something needed cannot be had.
    """
    counts = stage_counts(settings.stage_processes)
    state_dir = Path(settings.state_dir)
    given = given_addresses(settings)
    last = load_state(state_dir)
    before = dict(last.ports) if last is not None else {}
    ports = PortPool(free=settings.free_ports)
    services = _services(settings, state_dir, ports, before, set(given), report)
    specs: list[ProcessSpec] = list(services)
    steps: list[Step] = []
    supervisor: Supervisor

    def environment() -> dict[str, str]:
        return {
            **settings_environment(settings),
            # A service that the stage does not wait for may have no address yet.
            **{variable_of(name): address for name, address in supervisor.addresses.items()},
            # The simulator takes any key, but an OpenAI client sends none without one.
            "SIM_KEY": os.environ.get("SIM_KEY", "not-a-secret"),
        }

    async def prepare_log() -> None:
        # Imported while the services start: it takes the Kafka client half a second to load.
        from fairlane.devstack.first_config import LogPreparation

        kafka, simulator = supervisor.addresses["kafka"], supervisor.addresses["simulator"]
        was = simulator_url(before["simulator"]) if "simulator" in before else ""
        await LogPreparation(kafka, settings.topic_prefix, simulator, was, first).run()

    async def prepare_tables() -> None:
        from fairlane.devstack.prepare import prepare_tables

        await prepare_tables(supervisor.addresses["clickhouse"], settings.clickhouse_database)

    # What is not started here is asked first: its absence is told by the name of its variable.
    started = {spec.name for spec in services}
    at_hand = {name: {name} if name in started else {GIVEN_STEP} for name in SETTING_OF}
    if given:
        steps.append(Step(GIVEN_STEP, partial(await_given, given)))
    steps.append(Step(LOG_STEP, prepare_log, tuple(sorted(at_hand["kafka"] | at_hand["simulator"]))))
    steps.append(Step(TABLES_STEP, prepare_tables, tuple(sorted(at_hand["clickhouse"]))))
    for stage, count in counts.items():
        # Only the sinks speak to ClickHouse; the others need not wait for it.
        needs = {LOG_STEP} | ({TABLES_STEP} if stage == "sinks" else at_hand["redis"])
        for number in range(1, count + 1):
            name = f"{stage}-{number}"
            choose = partial(ports.choose, 0, before.get(name, 0))
            asked = host_to_ask(settings.metrics_host)
            specs.append(
                ProcessSpec(
                    name=name,
                    build=partial(_stage_launch, stage, name, asked, choose, environment),
                    after=tuple(sorted(needs)),
                    stage=stage,
                    stop_rank=STOP_ORDER.index("stages"),
                    stop_timeout_s=settings.drain_timeout_ms / 1000 + DRAIN_MARGIN_S,
                    hang_timeout_s=settings.hang_timeout_ms / 1000,
                )
            )
    supervisor = Supervisor(specs, steps, state_dir, report, given, before)
    return supervisor


def _services(
    settings: Settings, state_dir: Path, ports: PortPool, before: Mapping[str, int], given: set[str], report: Report
) -> list[ProcessSpec]:
    cache = cache_path(settings.cache_dir)
    data = state_dir / "data"

    def spec(name: str, well_known: int, launch: Callable[[int], Launch], stop_timeout_s: float) -> ProcessSpec:
        def build(kept: int) -> Launch:
            return launch(kept or ports.choose(well_known, before.get(name, 0)))

        return ProcessSpec(name, build, stop_rank=STOP_ORDER.index(name), stop_timeout_s=stop_timeout_s)

    specs = []
    if "kafka" not in given:
        java, libs = find_java(), kafka_libs(cache, report)

        def kafka(port: int) -> Launch:
            controller = ports.choose(CONTROLLER_PORT)
            return kafka_launch(java, libs, data / "kafka", port, controller, settings.kafka_heap)

        specs.append(spec("kafka", KAFKA_PORT, kafka, 30.0))
    if "redis" not in given:
        binary = redis_server(cache, report)
        specs.append(spec("redis", REDIS_PORT, lambda port: redis_launch(binary, data / "redis", port), 5.0))
    if "clickhouse" not in given:
        specs.append(
            spec("clickhouse", CLICKHOUSE_PORT, lambda port: clickhouse_launch(data / "clickhouse", port), 20.0)
        )
    if "simulator" not in given:
        specs.append(spec("simulator", SIMULATOR_PORT, simulator_launch, 5.0))
    return specs


def _stage_launch(
    stage: str, name: str, host: str, choose: Callable[[], int], environment: Callable[[], dict[str, str]], kept: int
) -> Launch:
    port = kept if kept and bindable(kept) else choose()

    async def ready() -> bool:
        return await http_answers(f"http://{host}:{port}/readyz")

    async def alive() -> bool:
        return await http_answers(f"http://{host}:{port}/healthz", timeout_s=ALIVE_TIMEOUT_S)

    own = {"FAIRLANE_INSTANCE": name, "FAIRLANE_METRICS_PORT": str(port)}
    return Launch(
        [sys.executable, "-m", "fairlane", "run", stage],
        ready,
        port,
        {**environment(), **own},
        alive=alive,
        nice=NICE.get(stage, 0),
    )
