"""What the admission store makes of Redis' refusals: trouble of the server is never a request's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ResponseError

from fairlane.adapters.redis_admission import RedisAdmissionStore
from fairlane.errors import Retry
from tests.contract.admission_store import request, settlement

SERVER_TROUBLE = (
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOAUTH Authentication required.",
)


class RefusingPipeline:
    def __init__(self, text: str) -> None:
        self._text = text
        self._commands = 0

    def execute_command(self, *_: Any) -> None:
        self._commands += 1

    async def execute(self, *, raise_on_error: bool = True) -> Sequence[Any]:
        parse = BaseParser.parse_error
        refusals = [parse(self._text) for _ in range(self._commands)]  # type: ignore[no-untyped-call]
        if raise_on_error:
            raise refusals[0]
        return refusals


class RefusingRedis:
    """Answers scripts as a server in trouble does, in the form the client library gives it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def pipeline(self, **_: Any) -> RefusingPipeline:
        return RefusingPipeline(self._text)


def store_of(text: str, *, loaded: bool) -> RedisAdmissionStore:
    store = RedisAdmissionStore("redis://127.0.0.1:1/0", "x.")
    store._redis = RefusingRedis(text)  # type: ignore[assignment]
    if loaded:
        store._sha = dict.fromkeys(("admit", "dispatched", "settle", "followers_answered"), "sha")
    return store


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("text", SERVER_TROUBLE)
async def test_trouble_of_the_server_says_try_again_so_that_no_request_or_booking_is_given_up(
    text: str, loaded: bool
) -> None:
    with pytest.raises(Retry):
        await store_of(text, loaded=loaded).settle([settlement()])
    with pytest.raises(Retry):
        await store_of(text, loaded=loaded).admit([request()])
    with pytest.raises(Retry):
        await store_of(text, loaded=loaded).usage(["acme"])


@pytest.mark.parametrize(
    "text", ["WRONGTYPE Operation against a key holding the wrong kind of value", "ERR value is not an integer"]
)
async def test_what_is_wrong_with_one_request_is_not_tried_for_ever(text: str) -> None:
    with pytest.raises(ResponseError):
        await store_of(text, loaded=True).admit([request()])


async def test_a_server_that_does_not_answer_in_time_is_away() -> None:
    class SilentPipeline(RefusingPipeline):
        async def execute(self, *, raise_on_error: bool = True) -> Sequence[Any]:
            await asyncio.Event().wait()
            raise AssertionError("it never answers")

    class SilentRedis:
        def pipeline(self, **_: Any) -> SilentPipeline:
            return SilentPipeline("")

    store = RedisAdmissionStore("redis://127.0.0.1:1/0", "x.", timeout_s=0.01)
    store._redis = SilentRedis()  # type: ignore[assignment]
    with pytest.raises(Retry, match="not reachable"):
        await store.admit([request()])
    with pytest.raises(Retry, match="not reachable"):
        await store.usage(["acme"])
