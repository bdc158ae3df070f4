"""The guard of this folder refuses sockets, whoever opens them, and even if the code hides it."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import asyncio, contextlib, socket
from tests.no_sockets import no_sockets

def test_plain_connection():
    socket.create_connection(("127.0.0.1", 9))

def test_asyncio_connection():
    asyncio.run(asyncio.open_connection("127.0.0.1", 9))

def test_listener():
    socket.socket().bind(("127.0.0.1", 0))

def test_name_look_up():
    socket.getaddrinfo("localhost", 9)

def test_swallowed_refusal():
    with contextlib.suppress(Exception):
        socket.create_connection(("127.0.0.1", 9))

def test_event_loop_alone():
    asyncio.run(asyncio.sleep(0))
"""


def test_every_test_that_opens_a_socket_fails_and_others_do_not(
    pytester: pytest.Pytester, pytestconfig: pytest.Config
) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeini(f"[pytest]\npythonpath = {pytestconfig.rootpath}\nasyncio_default_fixture_loop_scope = function")
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=4, errors=5, passed=2)
    for name in ("plain_connection", "asyncio_connection", "listener", "name_look_up", "swallowed_refusal"):
        result.stdout.fnmatch_lines([f"ERROR *::test_{name}*"])
    result.stdout.fnmatch_lines(["*this test opened a socket: *127.0.0.1*"])
