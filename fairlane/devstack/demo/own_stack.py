"""The demo's own stack: fresh data, free ports, the demo's tenants and catalog, gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from fairlane.devstack.first_config import FirstConfig
from fairlane.devstack.progress import Report
from fairlane.devstack.running import clear_leftovers
from fairlane.devstack.stack import build_supervisor
from fairlane.devstack.stack_lock import stack_lock
from fairlane.devstack.state import LOG_DIR
from fairlane.devstack.supervisor import Supervisor
from fairlane.errors import Fatal
from fairlane.settings import Settings

DRAIN_MS = 8_000
"""Whoever interrupts the demo does not wait for more of its backlog: all of it goes with the stack."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that is ready. ``ended`` completes, or fails, when it stops by itself."""

    settings: Settings
    ended: asyncio.Task[None]


def demo_settings(settings: Settings, run: str) -> Settings:
    """Settings of the demo's stack: a state directory of its own, free ports, and names of its own on services
    whose address is given, so that it disturbs nobody and counts nothing but itself.
    """
    own = replace(
        settings,
        state_dir=str(Path(settings.state_dir) / "demo"),
        free_ports=True,
        drain_timeout_ms=min(settings.drain_timeout_ms, DRAIN_MS),
    )
    if settings.kafka_bootstrap or settings.redis_url or settings.clickhouse_url:
        return replace(
            own,
            topic_prefix=f"{settings.topic_prefix}{run}.",
            group_prefix=f"{settings.group_prefix}{run}.",
            clickhouse_database=f"{settings.clickhouse_database}_{run.replace('-', '_')}",
        )
    return own


@contextmanager
def prepared(settings: Settings, report: Report, first: FirstConfig | None = None) -> Iterator[Supervisor]:
    """A supervisor for a fresh stack, with the state directory locked; fetches what is missing.

    ``first`` is what the stack starts with; None: the demo's tenants and catalog.

    Not in an event loop, so that Ctrl-C ends a download at once. Raises Reject where the demo runs
    already, Fatal where something needed cannot be had.
    """
    state_dir = Path(settings.state_dir)
    with stack_lock(state_dir):
        clear_leftovers(state_dir, report)
        _forget_last_run(state_dir)
        yield build_supervisor(settings, report, first or first_config())


@asynccontextmanager
async def running(settings: Settings, supervisor: Supervisor) -> AsyncIterator[RunningStack]:
    """Bring the stack up, and take it down when the block ends, however it ends.

    Raises Fatal where the stack does not come up.
    """
    stopping, ready = asyncio.Event(), asyncio.Event()
    ended = asyncio.create_task(supervisor.run(stopping, ready.set), name="demo stack")
    try:
        await _until_ready(ready, ended)
        yield RunningStack(_with_addresses(settings, supervisor), ended)
    finally:
        stopping.set()
        await _gone(ended, supervisor)


def first_config() -> FirstConfig:
    """The demo's tenants and catalog."""
    data = files("fairlane.devstack.demo").joinpath("data")
    return FirstConfig(
        tenants=data.joinpath("tenants.yaml").read_text(encoding="utf-8"),
        catalog=data.joinpath("catalog.yaml").read_text(encoding="utf-8"),
    )


async def _until_ready(ready: asyncio.Event, ended: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if ended.done():
        ended.result()
        raise Fatal("the stack stopped before it was ready; its logs are in the state directory")


async def _gone(ended: asyncio.Task[None], supervisor: Supervisor) -> None:
    """Wait until the stack is down; a second interruption does not wait for what is in flight."""
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        supervisor.hurry()
        with contextlib.suppress(asyncio.CancelledError):
            await ended
        raise


def _with_addresses(settings: Settings, supervisor: Supervisor) -> Settings:
    addresses = supervisor.addresses
    return replace(
        settings, kafka_bootstrap=addresses["kafka"], redis_url=addresses["redis"],
        clickhouse_url=addresses["clickhouse"], simulator_url=addresses["simulator"],
    )  # fmt: skip


def _forget_last_run(state_dir: Path) -> None:
    for name in ("data", LOG_DIR):
        shutil.rmtree(state_dir / name, ignore_errors=True)
