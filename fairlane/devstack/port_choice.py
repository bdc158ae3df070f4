"""Chooses the ports of the stack."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Container

from fairlane.errors import Fatal

HOST = "127.0.0.1"
FREE_RANGE = range(17_000, 32_000)
"""Below every system's ephemeral range (Linux 32768, others 49152): a port in that range may be the
source port of any connection at the moment a crashed service wants it back, and a client that
keeps connecting to a dead port in it can even connect to itself."""


def host_to_ask(bound: str) -> str:
    """Where a server that is bound to this address is asked from the same machine."""
    return HOST if bound in {"0.0.0.0", "::"} else bound  # noqa: S104  (compared, not bound)


def bindable(port: int) -> bool:
    """Whether a server could listen on the port of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(taken: Container[int] = frozenset()) -> int:
    """A port nobody listens on. It may be lost to another program before it is used: check, and choose again."""
    for port in random.sample(FREE_RANGE, 200):
        if port not in taken and bindable(port):
            return port
    raise Fatal(f"no free port found between {FREE_RANGE.start} and {FREE_RANGE.stop - 1}")


class PortPool:
    """Gives the parts of one stack ports that differ. Safe to use from several threads."""

    def __init__(self, *, free: bool) -> None:
        """``free``: never the well-known port, so that several stacks share a machine."""
        self._free = free
        self._given: set[int] = set()
        self._lock = threading.Lock()

    def choose(self, well_known: int, before: int = 0) -> int:
        """The port this part had ``before``, else the well-known one, else a free one: the first nobody uses."""
        with self._lock:
            for port in (before, 0 if self._free else well_known):
                if port and port not in self._given and bindable(port):
                    self._given.add(port)
                    return port
            port = free_port(self._given)
            self._given.add(port)
            return port
