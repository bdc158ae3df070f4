"""Runs a set of processes: in the order of their needs, restarted when they crash, stopped in order."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from fairlane.devstack.backoff import Backoff
from fairlane.devstack.identity import ProcessIdentity, identify
from fairlane.devstack.liveness import silence
from fairlane.devstack.log_file import bound
from fairlane.devstack.process import ChildProcess, Launch, NotReady, describe_exit, start
from fairlane.devstack.progress import Report
from fairlane.devstack.state import LOG_DIR, Phase, ProcessState, StackState

EARLY_FAILURES = 3
"""Starts that may fail before a process was ever ready; then bringing the stack up has failed. More
than one, because a chosen port can be lost to another program before it is used."""
LOG_CHECK_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process of the stack.

    ``build`` is called in a worker thread before every start and may prepare directories and choose a
    port; it is given the port at which the process was ready before, or 0. ``after`` names processes and
    steps that must be ready first. Lower ``stop_rank`` stops first.
    """

    name: str
    build: Callable[[int], Launch]
    after: tuple[str, ...] = ()
    stage: str = ""
    stop_rank: int = 0
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 10.0
    hang_timeout_s: float = 0.0
    """A ready process that does not answer for so long is killed and started again; 0: never."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do once while the stack comes up; raises an error of Fairlane where it cannot."""

    name: str
    run: Callable[[], Awaitable[None]]
    after: tuple[str, ...] = ()


@dataclass(slots=True)
class _Slot:
    """A place for one process, whichever incarnation of it runs now."""

    spec: ProcessSpec
    child: ChildProcess | None = None
    port: int = 0
    kept_port: int = 0
    ready: bool = False
    starts: int = 0
    ever_ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """See :meth:`run`. One per state directory: hold its lock around it. Use it once, in the main thread."""

    def __init__(
        self,
        specs: Iterable[ProcessSpec],
        steps: Iterable[Step],
        state_dir: Path,
        report: Report,
        addresses: Mapping[str, str],
        ports: Mapping[str, int],
    ) -> None:
        """``addresses`` are those of services that are not started here, by name; those started here join them.

        ``ports`` are those of an earlier stack, kept in the state until they are chosen anew.
        """
        self.addresses = dict(addresses)
        self._ports = dict(ports)
        self._slots = {spec.name: _Slot(spec) for spec in specs}
        self._steps = tuple(steps)
        self._step_done = {step.name: asyncio.Event() for step in self._steps}
        self._state_dir = state_dir
        self._report = report
        self._phase: Phase = "starting"
        self._failure = ""
        self._identity = identify(os.getpid()) or ProcessIdentity(os.getpid(), "")
        self._hurry = asyncio.Event()

    async def run(self, stopping: asyncio.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Bring everything up, keep it up until ``stopping`` is set, take it down; nothing is left behind.

        ``on_ready`` is called once when all is ready. Raises Fatal, after taking everything down, where
        the stack does not come up.
        """
        self._save()
        work = [asyncio.create_task(self._keep_running(slot)) for slot in self._slots.values()]
        work += [asyncio.create_task(self._do(step)) for step in self._steps]
        work.append(asyncio.create_task(self._bound_logs()))
        up = asyncio.create_task(self._all_ready())
        stop = asyncio.create_task(stopping.wait())
        try:
            await _first(up, stop, *work)
            if not stop.done():
                self._enter("ready")
                on_ready()
                await _first(stop, *work)
            self._enter("stopping")
        except Exception as failure:
            self._failure = str(failure) or type(failure).__name__
            self._enter("failed")
            raise
        finally:
            for task in (up, stop, *work):
                task.cancel()
            await asyncio.gather(up, stop, *work, return_exceptions=True)
            await self._stop_all()
            self._enter("failed" if self._phase == "failed" else "down")

    def hurry(self) -> None:
        """Do not wait any longer for what is being stopped: kill it."""
        self._hurry.set()
        for slot in self._slots.values():
            if slot.child is not None:
                slot.child.kill()

    def _ready(self, name: str) -> asyncio.Event:
        return self._step_done[name] if name in self._step_done else self._slots[name].ever_ready

    async def _all_ready(self) -> None:
        for name in (*self._slots, *self._step_done):
            await self._ready(name).wait()

    async def _do(self, step: Step) -> None:
        for name in step.after:
            await self._ready(name).wait()
        self._report(step.name, "under way")
        began = time.monotonic()
        await step.run()
        self._report(step.name, f"done in {time.monotonic() - began:.1f} s", done=True)
        self._step_done[step.name].set()
        # A finished task would end the wait for the first of all.
        await asyncio.Event().wait()

    async def _keep_running(self, slot: _Slot) -> None:
        spec = slot.spec
        for name in spec.after:
            await self._ready(name).wait()
        backoff = Backoff()
        while True:
            self._report(spec.name, "starting" if slot.starts == 0 else "restarting")
            launch = await asyncio.to_thread(spec.build, slot.kept_port)
            child = start(launch, self._state_dir / LOG_DIR / f"{spec.name}.log")
            slot.child, slot.port, slot.ready = child, launch.port, False
            slot.starts += 1
            self._save()
            try:
                await child.wait_ready(launch, spec.name, spec.start_timeout_s)
            except NotReady as failure:
                await child.stop(spec.stop_timeout_s)
                if not slot.ever_ready.is_set() and slot.starts >= EARLY_FAILURES:
                    raise
                self._report(spec.name, f"{failure.brief}; see {child.log}")
            else:
                self._became_ready(slot, launch, child)
                code = await self._ended(spec, launch, child)
                self._report(spec.name, f"ended with {describe_exit(code)}")
            # What it may have started itself goes with it.
            child.kill_group()
            slot.ready = False
            self._save()
            backoff, delay_s = backoff.after(time.monotonic() - child.started_at)
            await asyncio.sleep(delay_s)

    async def _ended(self, spec: ProcessSpec, launch: Launch, child: ChildProcess) -> int:
        """Wait for its end, which comes by force where it hangs; returns the exit code."""
        ending = asyncio.create_task(child.ended())
        tasks: set[asyncio.Task[Any]] = {ending}
        if launch.alive is not None and spec.hang_timeout_s > 0:
            tasks.add(asyncio.create_task(silence(launch.alive, spec.hang_timeout_s)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                self._report(spec.name, f"hangs: no answer for {spec.hang_timeout_s:.0f} s; killed, see {child.log}")
                child.kill()
            return await ending
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _became_ready(self, slot: _Slot, launch: Launch, child: ChildProcess) -> None:
        slot.ready, slot.kept_port = True, launch.port
        self._ports[slot.spec.name] = launch.port
        if launch.address:
            self.addresses[slot.spec.name] = launch.address
        slot.ever_ready.set()
        self._save()
        took = time.monotonic() - child.started_at
        self._report(slot.spec.name, f"ready in {took:.1f} s at {launch.address or launch.port}", done=True)

    async def _bound_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_S)
            for log in (self._state_dir / LOG_DIR).glob("*.log"):
                bound(log)

    async def _stop_all(self) -> None:
        slots = sorted(self._slots.values(), key=lambda slot: slot.spec.stop_rank)
        for _, group in groupby(slots, key=lambda slot: slot.spec.stop_rank):
            await asyncio.gather(*(self._stop(slot) for slot in group))
        self._save()

    async def _stop(self, slot: _Slot) -> None:
        child = slot.child
        if child is None:
            return
        if child.exit_code is None:
            self._report(slot.spec.name, _stopping(slot.spec))
            if self._hurry.is_set():
                child.kill()
            gracefully = await child.stop(slot.spec.stop_timeout_s)
            self._report(slot.spec.name, "stopped" if gracefully else "killed: it did not end in time", done=True)
        child.kill_group()
        slot.child, slot.ready = None, False
        self._save()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._save()

    def _save(self) -> None:
        processes = tuple(
            ProcessState(name, slot.spec.stage, slot.child.identity, slot.port, slot.ready, slot.starts - 1)
            for name, slot in self._slots.items()
            if slot.child is not None
        )
        StackState(self._identity, self._phase, self.addresses, processes, self._ports, self._failure).save(
            self._state_dir
        )


def _stopping(spec: ProcessSpec) -> str:
    """What is waited for, and how long."""
    what = "finishes or hands back what is in flight, " if spec.stage else ""
    return f"stopping ({what}at most {spec.stop_timeout_s:.0f} s)"


async def _first(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """Wait until one ends; raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
