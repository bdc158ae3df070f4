"""Brings a stack up in this process or in one of its own, and takes one down."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from fairlane.devstack.identity import alive, identify, kill_group
from fairlane.devstack.log_file import MAX_BYTES, bound
from fairlane.devstack.progress import Report
from fairlane.devstack.stack import DRAIN_MARGIN_S, build_supervisor
from fairlane.devstack.stack_lock import stack_lock
from fairlane.devstack.state import LOG_DIR, load_state, reap
from fairlane.devstack.supervisor import Supervisor
from fairlane.settings import Settings

SUPERVISOR_LOG = "supervisor.log"
SERVICES_STOP_S = 60.0
"""Bound on stopping all services, one after the other."""
POLL_S = 0.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Build = Callable[[Settings, Report], Supervisor]
"""Makes the supervisor, after what an earlier one left is gone."""


def run_stack(
    settings: Settings, report: Report, on_ready: Callable[[], None], build: Build = build_supervisor
) -> None:
    """Run the stack in this process until SIGTERM or Ctrl-C; a second one does not wait for what is in flight.

    Call it from the main thread. Raises Fatal where a stack runs already, KeyboardInterrupt after a Ctrl-C before
    all was ready, and what :meth:`~fairlane.devstack.supervisor.Supervisor.run` raises.
    """
    state_dir = Path(settings.state_dir)
    # Until the loop runs, a stop must also clean up behind a download.
    before = {number: signal.signal(number, _interrupt) for number in STOP_SIGNALS}
    try:
        with stack_lock(state_dir):
            clear_leftovers(state_dir, report)
            supervisor = build(settings, report)
            was_ready = interrupted = False

            def ready() -> None:
                nonlocal was_ready
                was_ready = True
                on_ready()

            async def main() -> None:
                stopping = asyncio.Event()

                def stop(number: int) -> None:
                    nonlocal interrupted
                    if stopping.is_set():
                        supervisor.hurry()
                    interrupted = interrupted or (number == signal.SIGINT and not was_ready)
                    stopping.set()

                for number in STOP_SIGNALS:
                    asyncio.get_running_loop().add_signal_handler(number, stop, number)
                await supervisor.run(stopping, ready)

            asyncio.run(main())
            if interrupted:
                # What was asked for, a running stack, did not come about.
                raise KeyboardInterrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_detached(settings: Settings, follow: Callable[[str], None]) -> int:
    """Run ``fairlane up`` in a session of its own; returns 0 when all is ready, else its exit code.

    ``follow`` is given each line it prints until then. A Ctrl-C while waiting stops it again.
    """
    state_dir = Path(settings.state_dir)
    log = state_dir / LOG_DIR / SUPERVISOR_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    bound(log, MAX_BYTES // 8)
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "fairlane", "up", "--detached"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        begin = out.tell()
    with log.open() as lines:
        lines.seek(begin)
        try:
            while True:
                code = child.poll()
                for line in lines:
                    follow(line.rstrip("\n"))
                state = load_state(state_dir)
                if code is not None:
                    return code or 1
                if state is not None and state.supervisor == identify(child.pid) and state.phase == "ready":
                    return 0
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise


def stop_stack(settings: Settings, report: Report) -> bool:
    """Stop the stack of the state directory and reap what a killed supervisor left; False where none ran.

    Raises Fatal where something cannot be stopped.
    """
    state_dir = Path(settings.state_dir)
    state = load_state(state_dir)
    if state is None:
        return False
    ran = alive(state.supervisor)
    if ran:
        report("stack", f"stopping (supervisor pid {state.supervisor.pid})")
        os.kill(state.supervisor.pid, signal.SIGTERM)
        deadline = time.monotonic() + settings.drain_timeout_ms / 1000 + DRAIN_MARGIN_S + SERVICES_STOP_S
        while alive(state.supervisor) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if kill_group(state.supervisor):
            report("stack", "killed the supervisor: it did not end in time")
    with stack_lock(state_dir):
        left = clear_leftovers(state_dir, report)
    return ran or left


def clear_leftovers(state_dir: Path, report: Report) -> bool:
    """Kill what a dead supervisor left, if anything; call it under the lock."""
    state = load_state(state_dir)
    if state is None or state.running():
        return False
    names = reap(state)
    if names:
        report("stack", f"killed what an earlier supervisor left: {', '.join(names)}")
    return bool(names)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
