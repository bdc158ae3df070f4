"""Single services for the length of a ``with`` block, for tests and benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairlane.devstack.artifacts import cache_path, kafka_libs, redis_server
from fairlane.devstack.clickhouse_service import clickhouse_launch
from fairlane.devstack.java import find_java
from fairlane.devstack.kafka_service import kafka_launch
from fairlane.devstack.port_choice import free_port
from fairlane.devstack.process import Launch, start
from fairlane.devstack.redis_service import redis_launch
from fairlane.devstack.simulator_service import simulator_launch
from fairlane.errors import Fatal

PORT_TRIES = 3
"""A free port can be lost to another program before it is used."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


@contextmanager
def running(name: str, directory: Path, build: Callable[[], Launch]) -> Iterator[str]:
    """Run one service with its log in ``directory``; gives its address, and stops it at the end, whatever happens.

    ``build`` is called for each try, and chooses a free port. Call from the main thread. Raises Fatal.
    """
    log = directory / f"{name}.log"
    for left in reversed(range(PORT_TRIES)):
        launch = build()
        child = start(launch, log)
        try:
            try:
                _run(child.wait_ready(launch, name, START_TIMEOUT_S))
            except Fatal:
                if not left:
                    raise
                continue
            yield launch.address
            return
        finally:
            _run(child.stop(STOP_TIMEOUT_S))


def _run(work: Coroutine[Any, Any, object]) -> None:
    # A loop of its own, not the thread's: a test framework may keep its own there.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as loop:
        loop.run(work)


@contextmanager
def native_kafka(directory: Path, *, heap: str = "512m", cache_dir: str = "") -> Iterator[str]:
    """A broker; gives ``host:port``."""
    java, libs = find_java(), kafka_libs(cache_path(cache_dir))

    def build() -> Launch:
        port = free_port()
        return kafka_launch(java, libs, directory / "kafka", port, free_port(frozenset({port})), heap)

    with running("kafka", directory, build) as address:
        yield address


@contextmanager
def native_redis(directory: Path, *, cache_dir: str = "") -> Iterator[str]:
    """Redis; gives ``redis://host:port/0``."""
    binary = redis_server(cache_path(cache_dir))
    with running("redis", directory, lambda: redis_launch(binary, directory / "redis", free_port())) as address:
        yield address


@contextmanager
def native_clickhouse(directory: Path) -> Iterator[str]:
    """The ClickHouse front; gives ``http://host:port``."""
    with running("clickhouse", directory, lambda: clickhouse_launch(directory / "clickhouse", free_port())) as address:
        yield address


@contextmanager
def native_simulator(directory: Path) -> Iterator[str]:
    """The model simulator; gives its base URL, ``http://host:port/v1``."""
    with running("simulator", directory, lambda: simulator_launch(free_port())) as address:
        yield address
