"""Commands are packed as the client library packs them."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Connection

from fairlane.adapters.redis_connection import PackingConnection

COMMANDS: list[tuple[Any, ...]] = [
    ("EVALSHA", "ab" * 20, 2, "x.{t}:r:1", "x.{t}:t", b"\x00\xff", 10**15, -1, "", 0.5),
    ("SCRIPT LOAD", "return 'naïve'"),
    ("GET", "x.generation"),
    ("SET", "large", b"v" * 100_000),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_command_is_packed_as_by_the_client_itself(command: tuple[Any, ...]) -> None:
    assert b"".join(PackingConnection().pack_command(*command)) == b"".join(Connection().pack_command(*command))


def test_commands_are_one_piece_in_their_order() -> None:
    assert PackingConnection().pack_commands(COMMANDS) == [b"".join(Connection().pack_commands(COMMANDS))]
