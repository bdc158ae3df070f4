"""The admission store on Redis 6.2 or later: one script call per request, one pipeline per batch.

Keys: ``<prefix>{tenant}:r:<request>`` identity, ``<prefix>{tenant}:i:<key>`` idempotency key,
``<prefix>{tenant}:t`` figures. In a tenant's id ``%``, ``{`` and ``}`` are percent-encoded, or two
tenants could share a key.

``<prefix>generation`` is there while Redis knows what it should. Every script looks at it first, so from
the moment of a flush on nothing is decided on what was forgotten: callers get StoreEmptied until the
store is rebuilt and has a new generation. The guard is one key for all tenants, so this is for one
primary, not for a cluster. The store fails closed: while Redis is away nothing is admitted either
(callers get Retry), because admitting without a hold could overshoot a budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry as RedisRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fairlane.adapters.redis_connection import PackingConnection
from fairlane.errors import Retry
from fairlane.ports import (
    Admission,
    AdmissionOutcome,
    AdmissionRequest,
    Answered,
    Joined,
    Restoration,
    Settled,
    Settlement,
    StoreEmptied,
    TenantUsage,
)

SCRIPTS = (
    "admit", "dispatched", "settle", "followers_answered", "restore_waiting", "restore_joined", "claim", "complete",
)  # fmt: skip
_TAG_SAFE = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})

_Command = tuple[str, list[str], list[Any]]


class RedisAdmissionStore:
    """A :class:`~fairlane.ports.RestorableStore`. Call :meth:`close` at the end."""

    def __init__(self, url: str, key_prefix: str, *, timeout_s: float = 5.0) -> None:
        # The client's own retries are off: the engine retries, and only one layer does.
        self._redis: Redis = Redis.from_url(
            url,
            connection_class=PackingConnection,
            retry=RedisRetry(NoBackoff(), 0),
            # Ours is for a whole pipeline. The client's would be set anew for each reply of one, at 5 µs.
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
            protocol=2,
        )
        self._timeout_s = timeout_s
        self._prefix = key_prefix
        folder = files("fairlane.adapters") / "lua"
        self._sources = {name: (folder / f"{name}.lua").read_text() for name in SCRIPTS}
        self._sha: dict[str, str] = {}
        self._generation = ""
        self._generation_key = f"{key_prefix}generation"
        self._claim_key = f"{key_prefix}claim"

    def _keys(self, tenant: str, request: str, key: str) -> list[str]:
        tag = self._tag(tenant)
        return [f"{tag}:r:{request}", f"{tag}:i:{key}", f"{tag}:t"]

    def _tag(self, tenant: str) -> str:
        return f"{self._prefix}{{{tenant.translate(_TAG_SAFE)}}}"

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """Decide each request atomically, in order, in one round trip."""
        replies = await self._live_run(
            [
                (
                    "admit",
                    self._keys(r.tenant_id, r.request_id, r.idempotency_key),
                    [
                        r.fingerprint,
                        r.source,
                        r.request_id,
                        r.hold_nano_usd,
                        r.max_undispatched,
                        r.ttl_s,
                        r.reject_code,
                        r.envelope,
                        r.idempotency_key,
                    ],
                )
                for r in requests
            ]
        )
        return [
            Admission(
                AdmissionOutcome(outcome.decode()),
                int(undispatched),
                int(held),
                int(spent),
                answer.decode() or None,
                owner.decode() or None,
            )
            for outcome, undispatched, held, spent, answer, owner in replies
        ]

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        """These (tenant, request) have left their lane."""
        commands: list[_Command] = []
        for tenant, request in requests:
            identity, _, figures = self._keys(tenant, request, "")
            commands.append(("dispatched", [identity, figures], []))
        await self._live_run(commands)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Release the hold, book the cost, keep the answer; once per request."""
        replies = await self._live_run([self._settlement(item) for item in settlements])
        return [
            Settled(
                bool(reply[0]),
                int(reply[1]),
                reply[2].decode(),
                tuple((reply[i].decode(), reply[i + 1]) for i in range(3, len(reply), 2)),
            )
            for reply in replies
        ]

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """Forget followers whose results are in the log."""
        await self._live_run(
            [
                ("followers_answered", [self._keys(a.tenant_id, "", a.idempotency_key)[1]], list(a.followers))
                for a in answered
                if a.followers
            ]
        )

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """Live figures, for people and checks."""
        if not tenant_ids:
            return []
        async with self._answering():
            pipe = self._redis.pipeline(transaction=False)
            for tenant in tenant_ids:
                pipe.execute_command("HMGET", self._keys(tenant, "", "")[2], "held", "spent", "u", "fl")
            rows = await pipe.execute()
        return [TenantUsage(*(int(value or 0) for value in row)) for row in rows]

    async def live(self) -> bool:
        """Whether Redis knows what it should. Raises Retry while it is away."""
        async with self._answering():
            return await self._redis.get(self._generation_key) is not None

    async def claim(self, token: str, ttl_ms: int) -> bool:
        """Get, or keep for another ``ttl_ms``, the right to fill it. False while another has it or it is live."""
        return bool((await self._run([("claim", [self._generation_key, self._claim_key], [token, ttl_ms])]))[0])

    async def restore(self, token: str, restorations: Sequence[Restoration]) -> None:
        """Tell it what the log says. Raises StoreEmptied if the claim was lost."""
        for reply in await self._run(self._guarded(self._claim_key, token, map(self._restoration, restorations))):
            if _is_emptied(reply):
                raise StoreEmptied("another process fills Redis")

    async def complete(self, token: str) -> bool:
        """Live for all from now on. False if the claim was lost."""
        return bool((await self._run([("complete", [self._generation_key, self._claim_key], [token])]))[0])

    def _settlement(self, s: Settlement) -> _Command:
        known = s.known_as
        return (
            "settle",
            self._keys(s.tenant_id, s.request_id, s.idempotency_key),
            [
                s.request_id,
                s.cost_nano_usd,
                s.answer,
                int(s.replayable),
                s.ttl_s,
                s.idempotency_key,
                f"{self._tag(s.tenant_id)}:i:",
                *((known.fingerprint, known.source, known.outcome, int(known.admitted)) if known else ("", "", "", 0)),
            ],
        )

    def _restoration(self, item: Restoration) -> _Command:
        if isinstance(item, Settlement):
            return self._settlement(item)
        keys = self._keys(item.tenant_id, item.request_id, item.idempotency_key)
        said: list[Any] = [item.request_id, item.idempotency_key, item.fingerprint, item.source]
        if isinstance(item, Joined):
            return "restore_joined", keys[:2], [*said, item.owner_request_id, item.envelope, item.ttl_s]
        return "restore_waiting", keys, [*said, item.hold_nano_usd, int(item.dispatched), item.ttl_s]

    async def ping(self) -> None:
        """Raise Retry if Redis does not answer."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]  # redis types only commands
        except (RedisError, OSError) as failure:
            raise Retry(f"Redis is not reachable: {type(failure).__name__}") from failure

    async def close(self) -> None:
        """Close connections."""
        await self._redis.aclose()

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Retry where the server is in trouble, or has not answered all that is asked in here within the timeout."""
        with _described():
            async with asyncio.timeout(self._timeout_s):
                yield

    async def _live_run(self, commands: Sequence[_Command]) -> list[Any]:
        """Run script calls under the generation. If that is another by now, they run again, since each is
        idempotent; if there is none, raises StoreEmptied.
        """
        for _ in range(2):
            replies = await self._run(self._guarded(self._generation_key, self._generation, commands))
            if not any(_is_emptied(reply) for reply in replies):
                return replies
            async with self._answering():
                generation = await self._redis.get(self._generation_key)
            self._generation = generation.decode() if isinstance(generation, bytes) else generation or ""
        raise StoreEmptied("Redis was emptied and is being filled again from the log")

    @staticmethod
    def _guarded(key: str, value: str, commands: Iterable[_Command]) -> list[_Command]:
        return [(name, [*keys, key], [*args, value]) for name, keys, args in commands]

    async def _run(self, commands: Sequence[_Command]) -> list[Any]:
        """Run script calls in order. After a flush or failover the scripts are loaded and, since each
        call is idempotent, the whole batch runs again.
        """
        if not commands:
            return []
        async with self._answering():
            if not self._sha:
                await self._load()
            replies = await self._pipeline(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                await self._load()
                replies = await self._pipeline(commands)
            for reply in replies:
                if isinstance(reply, Exception) and not _is_emptied(reply):
                    raise reply
        return replies

    async def _pipeline(self, commands: Sequence[_Command]) -> list[Any]:
        pipe = self._redis.pipeline(transaction=False)
        for name, keys, args in commands:
            pipe.execute_command("EVALSHA", self._sha[name], len(keys), *keys, *args)
        return list(await pipe.execute(raise_on_error=False))

    async def _load(self) -> None:
        pipe = self._redis.pipeline(transaction=False)
        for name in SCRIPTS:
            pipe.execute_command("SCRIPT LOAD", self._sources[name])
        shas = await pipe.execute()
        self._sha = {
            name: sha.decode() if isinstance(sha, bytes) else str(sha) for name, sha in zip(SCRIPTS, shas, strict=True)
        }


def _is_emptied(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("EMPTIED")


@contextmanager
def _described() -> Iterator[None]:
    """Retry for whatever is the server's trouble. Only an error of the very command passes: a value of the
    wrong type, or a figure out of range. To repeat that would stop everybody else's requests.
    """
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as failure:
        raise Retry(f"Redis is not reachable: {type(failure).__name__}") from failure
    except ResponseError as failure:
        # The client strips the code of those it has a class for; of the others only ERR has none.
        code = str(failure).partition(" ")[0]
        if type(failure) is ResponseError and (code == "WRONGTYPE" or not code.isupper()):
            raise
        raise Retry(f"Redis cannot serve now: {type(failure).__name__}: {failure}") from failure
