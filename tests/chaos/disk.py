"""Small disks for the broker and ClickHouse, and how to fill them.

As root on Linux each gets a tmpfs of its own, and a full one refuses every write, as a full disk does. Elsewhere a
limit on the size of files (RLIMIT_FSIZE) on the running process stands in: it too lets writes fail, but with
another error, and a process that is started again is free of it. The row of the table says which it was.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.chaos.chaos_stack import ChaosStack

OWN_MOUNTS = "CHAOS_OWN_MOUNTS"
"""Set in a process whose mounts nobody else sees; they end with it, however it ends."""
DIRECTORIES = {"kafka": Path("kafka") / "data", "clickhouse": Path("clickhouse")}
SIZE_MIB = 384
FILLER = "filler"
BLOCK = bytes(2**20)


def with_own_mounts(arguments: Sequence[str]) -> None:
    """Become the same command in a mount namespace of its own, where that can be; else return."""
    if os.environ.get(OWN_MOUNTS) or not sys.platform.startswith("linux") or os.geteuid() != 0:
        return
    unshare = ["unshare", "--mount", "--propagation", "private"]
    try:
        able = subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return
    if able:
        os.environ[OWN_MOUNTS] = "1"
        os.execvp(unshare[0], [*unshare, sys.executable, "-m", "tests.chaos", *arguments])


def real() -> bool:
    """Whether disks can be made here."""
    return OWN_MOUNTS in os.environ


@contextmanager
def small_disks(data: Path) -> Iterator[None]:
    """A disk of :data:`SIZE_MIB` for each service's directory below ``data``, gone at the end."""
    with ExitStack() as stack:
        for directory in DIRECTORIES.values() if real() else ():
            path = (data / directory).resolve()
            path.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "chaos", str(path)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(path)], check=True)
        yield


@contextmanager
def full(stack: ChaosStack, service: str) -> Iterator[None]:
    """No space for a service; there is again when the block ends."""
    if real():
        filler = stack.services_dir / "data" / DIRECTORIES[service] / FILLER
        try:
            _fill(filler)
            yield
        finally:
            filler.unlink(missing_ok=True)
        return
    process = psutil.Process(stack.processes()[service].identity.pid)
    soft, hard = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        if process.is_running():
            process.rlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for block in (BLOCK, BLOCK[:4096]):
            try:
                while True:
                    file.write(block)
            except OSError as failure:
                if failure.errno != errno.ENOSPC:
                    raise
