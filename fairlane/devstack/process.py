"""Starts, watches and stops one child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairlane.devstack import guard
from fairlane.devstack.identity import ProcessIdentity, identify, listens
from fairlane.devstack.log_file import tail
from fairlane.errors import Fatal

POLL_S = 0.05
"""How often a child is looked at. There is no portable way to be told of its end without a thread."""


DEATHSIG = sys.platform.startswith("linux")
"""Whether the kernel binds children to this process; elsewhere a pipe does."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run. ``ready`` asks the service; ``port`` is where it must listen before it counts as ready.

    ``alive`` asks whether it still does anything, from when it is ready on. ``nice`` is how far it makes room for
    others where cores are scarce, 0 to 19.
    """

    argv: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    alive: Callable[[], Awaitable[bool]] | None = None
    nice: int = 0


class NotReady(Fatal):
    """A process did not come up. Its text ends with the end of the log; ``brief`` is the text without."""

    def __init__(self, brief: str, log: Path) -> None:
        super().__init__(brief + tail(log))
        self.brief = brief


class ChildProcess:
    """A started process, bound to the life of this one.

    It has its own session: a terminal's Ctrl-C must reach only its supervisor, which stops things in order.
    """

    def __init__(self, popen: subprocess.Popen[bytes], lifeline: int | None, log: Path) -> None:
        self._popen = popen
        self._lifeline = lifeline
        self.log = log
        self.started_at = time.monotonic()
        self.identity = identify(popen.pid) or ProcessIdentity(popen.pid, "ended")

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; below 0 the signal that ended it."""
        code = self._popen.poll()
        if code is not None and self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        return code

    async def ended(self) -> int:
        """Wait for the end; returns the exit code."""
        while (code := self.exit_code) is None:  # noqa: ASYNC110  (the system sends no event to wait for)
            await asyncio.sleep(POLL_S)
        return code

    async def wait_ready(self, launch: Launch, name: str, timeout_s: float) -> None:
        """Ask until it answers; raises :class:`NotReady` where it ends or stays silent."""
        deadline = self.started_at + timeout_s
        while True:
            if (code := self.exit_code) is not None:
                raise NotReady(f"{name} ended with {describe_exit(code)} before it was ready", self.log)
            if await launch.ready() and listens(self.pid, launch.port):
                return
            if time.monotonic() > deadline:
                raise NotReady(f"{name} was not ready within {timeout_s:.0f} s", self.log)
            await asyncio.sleep(POLL_S)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    async def stop(self, timeout_s: float) -> bool:
        """Ask it to end (SIGTERM), kill it after the bound. Returns whether it ended by itself."""
        if self.exit_code is None:
            self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await self.ended()
        except TimeoutError:
            self.kill()
            await self.ended()
            return False
        return True

    def kill(self) -> None:
        """End it and what it started, now."""
        if self.exit_code is None:
            self.kill_group()

    def kill_group(self) -> None:
        """End what it started, also after its own end. Call it soon after: group ids are used again."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def start(launch: Launch, log: Path) -> ChildProcess:
    """Start a child that writes to ``log`` and dies with this process.

    Call it from the main thread: on Linux the child is killed when the *thread* that started it ends.
    Raises Fatal where the program cannot be run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    kept: tuple[int, ...] = ()
    lifeline = None
    if not DEATHSIG:
        reading, lifeline = os.pipe()
        kept = (reading,)
    kind = "deathsig" if DEATHSIG else "pipe"
    wrapper = [sys.executable, "-I", "-S", guard.__file__, kind, str(os.getpid())]
    wrapper += [str(kept[0] if kept else -1), str(launch.nice), "--"]
    with log.open("ab") as out:
        try:
            popen = subprocess.Popen(
                [*wrapper, *launch.argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, **launch.env}, start_new_session=True, pass_fds=kept,
            )  # fmt: skip
        except OSError as failure:
            raise Fatal(f"cannot run {launch.argv[0]}: {failure}") from None
        finally:
            for number in kept:
                os.close(number)
    return ChildProcess(popen, lifeline, log)


def describe_exit(code: int) -> str:
    """``exit code 3`` or ``SIGKILL``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
