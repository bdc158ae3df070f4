"""Samples of a running stack: memory, handles and threads of each process, Redis, and how far each group is behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.group_lag import GroupLag
from benchmarks.own_stack import BenchStack
from benchmarks.soak_verdict import Sample
from fairlane.devstack.state import ProcessState, load_state
from fairlane.errors import Fatal, Retry

EVERY_S = 3.0


def open_handles(process: psutil.Process, spared: Sequence[Path]) -> int:
    """Sockets, pipes and files of a process, but for files below what is ``spared``."""
    files = [Path(file.path) for file in process.open_files()]
    return process.num_fds() - sum(any(file.is_relative_to(each) for each in spared) for file in files)


class Sampler:
    """Looks at everything every :data:`EVERY_S` seconds from the start of :meth:`run` until it is cancelled.

    What cannot be asked at the moment (a process between two lives, a group that moves) is left out of that look.
    """

    def __init__(self, stack: BenchStack, lag: GroupLag) -> None:
        self._stack = stack
        self._lag = lag
        # A log has more files the longer it is.
        self._data = (stack.state_dir / "data").resolve()
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    async def run(self) -> None:
        """Sample until cancelled."""
        redis: Redis = Redis.from_url(self._stack.settings.redis_url)
        self._began = time.monotonic()
        try:
            while True:
                due = time.monotonic() + EVERY_S
                self._look_at_processes()
                await self._look_at_redis(redis)
                await self._look_at_lag()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        finally:
            await redis.aclose()

    def processes(self) -> list[ProcessState]:
        """Those of the stack as they are now."""
        state = load_state(self._stack.state_dir)
        if state is None:
            raise Fatal(f"no state in {self._stack.state_dir}")
        return list(state.processes)

    def handles(self) -> dict[str, int]:
        """Of each process that can be asked at the moment, by its name."""
        found = {}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                found[process.name] = self._handles_of(process)
        return found

    def _handles_of(self, process: ProcessState) -> int:
        # ClickHouse keeps three files of /proc for each of its threads, which are a series of their own.
        spared = [self._data, Path("/proc")] if process.name == "clickhouse" else [self._data]
        return open_handles(psutil.Process(process.identity.pid), spared)

    def _note(self, series: str, of: str, value: float, life: int = 0) -> None:
        self.samples.append(Sample(round(time.monotonic() - self._began, 2), series, of, value, life))

    def _look_at_processes(self) -> None:
        for process in self.processes():
            try:
                found = psutil.Process(process.identity.pid)
                resident, handles = found.memory_info().rss, self._handles_of(process)
                threads = found.num_threads()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            # A process that was killed has nothing any more until its parent takes notice.
            if process.ready and resident:
                life = process.identity.pid
                self._note("memory, MB", process.name, resident / 1e6, life)
                self._note("handles", process.name, handles, life)
                self._note("threads", process.name, threads, life)

    async def _look_at_redis(self, redis: Redis) -> None:
        try:
            keys, memory = await redis.dbsize(), await redis.info("memory")
        except RedisError:
            return
        self._note("Redis keys", "redis", keys)
        self._note("Redis memory, MB", "redis", memory["used_memory"] / 1e6)

    async def _look_at_lag(self) -> None:
        try:
            found = await self._lag.look()
        except Retry:
            return
        for stage, behind in found.items():
            self._note("lag, records", stage, behind.records)
