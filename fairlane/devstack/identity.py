"""Tells one process from a later one that got the same pid."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A pid with the moment its process began, which no other process of that pid shares."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has this pid now; None where there is none or it is a zombie."""
    if LINUX:
        # psutil derives the start from a boot time that moves when the clock is set; ticks do not.
        try:
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (OSError, IndexError):
            return None
        state, start_ticks = after_name[0], after_name[19]
        return None if state in "ZX" else ProcessIdentity(pid, f"{boot}/{start_ticks}")
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessIdentity(pid, f"{process.create_time():.2f}")
    except psutil.NoSuchProcess:
        return None


def alive(identity: ProcessIdentity) -> bool:
    """Whether this very process still runs."""
    return identify(identity.pid) == identity


def kill_group(identity: ProcessIdentity) -> bool:
    """Kill this very process and its process group; False where it no longer runs. Never another."""
    if not alive(identity):
        return False
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(identity.pid) == identity.pid:
            os.killpg(identity.pid, signal.SIGKILL)
        else:
            os.kill(identity.pid, signal.SIGKILL)
    return True


def listens(pid: int, port: int) -> bool:
    """Whether the process, or a child of it, listens on the TCP port.

    An answer on a port does not say whose it is: another program may have taken the port first.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return False
    for member in family:
        with contextlib.suppress(psutil.Error):
            for connection in member.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False
