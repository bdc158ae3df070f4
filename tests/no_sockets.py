"""A guard for tests that need no service: one that reaches for the network fails and is told how to mend it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

_CALLS = ("connect", "connect_ex", "bind", "sendto")


class SocketOpened(RuntimeError):
    """A unit or property test used a socket."""


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every socket, the loopback too. Code that swallows the refusal fails at the end of the test."""
    opened: list[str] = []

    def refuse(call: str, address: Any) -> None:
        opened.append(f"{call}({address!r})")
        raise SocketOpened(
            f"this test opened a socket: {opened[-1]}. A unit or property test uses the in-memory adapters; "
            "a test of a real service belongs into tests/integration."
        )

    class Guarded(socket.socket):
        def connect(self, address: Any) -> None:
            refuse("connect", address)

        def connect_ex(self, address: Any) -> int:
            refuse("connect_ex", address)
            return 1

        def bind(self, address: Any) -> None:
            refuse("bind", address)

        def sendto(self, *arguments: Any) -> int:
            refuse("sendto", arguments[-1])
            return 0

    for call in _CALLS:
        monkeypatch.setattr(socket.socket, call, getattr(Guarded, call))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: refuse("getaddrinfo", arguments[:2]))
    yield
    if opened:
        pytest.fail("this test opened a socket: " + ", ".join(opened), pytrace=False)
