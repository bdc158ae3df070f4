"""The HTTP side: requests in, one bounded queue in front of a few engine threads, answers out."""

from __future__ import annotations

import asyncio
import ipaddress
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from fairlane.devstack.clickhouse_front.encodings import Codings, too_large
from fairlane.devstack.clickhouse_front.engine import DEFAULT_FORMAT, Answer, Engine, Query
from fairlane.devstack.clickhouse_front.exceptions import QueryFailed, not_supported

_NOT_SETTINGS: Final = frozenset({
    "query", "database", "default_format", "query_id", "user", "password", "quota_key", "role", "session_id",
    "session_timeout", "session_check", "client_protocol_version", "wait_end_of_query", "buffer_size", "stacktrace",
    "compress", "decompress", "enable_http_compression", "close_session",
})  # fmt: skip
"""Parameters of the protocol itself. Users and passwords are accepted unread, sessions begin with each request,
and an answer is always sent whole (what ``wait_end_of_query`` asks for)."""
_CONTENT_TYPES: Final = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8; header=present",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What the front takes on. A body counts as sent and again as decompressed; at most ``concurrency`` are held."""

    concurrency: int = 4
    waiting: int = 200
    body_bytes: int = 64 * 1024 * 1024
    body_timeout_s: float = 60.0


class Front:
    """Serves an :class:`Engine`. Requests beyond ``limits`` get 503 or 413 at once."""

    def __init__(self, engine: Engine, limits: Limits, *, loopback_only: bool) -> None:
        self._engine = engine
        self._limits = limits
        self._loopback_only = loopback_only
        self._codings = Codings()
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(limits.concurrency, thread_name_prefix="query")

    def application(self) -> web.Application:
        """The routes; the engine's threads end with it."""
        app = web.Application(client_max_size=self._limits.body_bytes)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/", self._serve)
        app.router.add_post("/", self._serve)
        app.on_cleanup.append(self._stop)
        return app

    async def _stop(self, _: web.Application) -> None:
        await asyncio.to_thread(self._threads.shutdown, wait=True)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n", content_type="text/html", charset="UTF-8")

    async def _serve(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id") or str(uuid.uuid4())
        try:
            self._refuse_web_pages(request)
            if request.method == "GET" and not request.query.get("query") and not request.body_exists:
                return await self._ping(request)
            answer = await self._answer(request)
        except QueryFailed as failure:
            return self._failure(failure, query_id)
        return await self._success(request, answer, query_id)

    def _refuse_web_pages(self, request: web.Request) -> None:
        """A page open in a browser on this machine can reach loopback too, but not forge these headers."""
        if not self._loopback_only:
            return
        origin = request.headers.get("Origin")
        hosts = [urlsplit(f"//{request.host}").hostname, urlsplit(origin).hostname if origin else "localhost"]
        if not all(host == "localhost" or _is_loopback(host or "") for host in hosts):
            raise QueryFailed(497, "ACCESS_DENIED", "this front answers only to clients on its own machine", 403)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._waiting >= self._limits.waiting:
            raise QueryFailed(
                202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"{self._waiting} queries wait already; send again later", 503
            )
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def _answer(self, request: web.Request) -> Answer:
        parameters = request.query
        for switch in ("compress", "decompress"):
            if parameters.get(switch, "0") not in ("0", "false"):
                raise not_supported(f"{switch}=1 (ClickHouse's own block compression)")
        if (request.content_length or 0) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        async with self._slot():
            # Read inside the slot: this bounds the bodies in memory, not only the queries.
            fields, body = await self._body(request)
            # A client that goes away must not free the slot while its query still runs.
            return await asyncio.shield(self._run(request, {**parameters, **fields}, body))

    async def _run(self, request: web.Request, parameters: Mapping[str, str], body: bytes) -> Answer:
        headers = request.headers
        database = parameters.get("database") or headers.get("X-ClickHouse-Database") or ""
        default_format = parameters.get("default_format") or headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT

        def work() -> Answer:
            data = self._codings.decode(body, headers.get("Content-Encoding", ""), self._limits.body_bytes)
            statement = parameters.get("query", "").encode()
            return self._engine.run(
                Query(
                    text=b"\n".join(part for part in (statement, data) if part),
                    parameters={n[6:]: v for n, v in parameters.items() if n.startswith("param_")},
                    settings={
                        n: v for n, v in parameters.items() if n not in _NOT_SETTINGS and not n.startswith("param_")
                    },
                    database=database,
                    default_format=default_format,
                    readonly=request.method == "GET",
                )
            )

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _body(self, request: web.Request) -> tuple[dict[str, str], bytes]:
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                if request.content_type == "multipart/form-data":
                    form = await request.post()
                    if any(not isinstance(value, str) for value in form.values()):
                        raise not_supported("external data")
                    return {name: str(value) for name, value in form.items()}, b""
                return {}, await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(self._limits.body_bytes) from None
        except TimeoutError:
            raise QueryFailed(209, "SOCKET_TIMEOUT", "the request body did not arrive in time", 408) from None

    async def _success(self, request: web.Request, answer: Answer, query_id: str) -> web.Response:
        data, coding = answer.data, None
        if request.query.get("enable_http_compression", "0") not in ("0", "false"):
            accepted = request.headers.get("Accept-Encoding", "")
            data, coding = await asyncio.to_thread(self._codings.encode, data, accepted)
        headers = self._headers(query_id) | {
            "Content-Type": _CONTENT_TYPES.get(answer.output_format, "text/plain; charset=UTF-8"),
            "X-ClickHouse-Format": answer.output_format,
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Summary": answer.summary,
        }
        if coding is not None:
            headers["Content-Encoding"] = coding
        return web.Response(body=data, headers=headers)

    def _failure(self, failure: QueryFailed, query_id: str) -> web.Response:
        headers = self._headers(query_id) | {"X-ClickHouse-Exception-Code": str(failure.code)}
        text = f"{failure.text} (version {self._engine.version} (official build))\n"
        return web.Response(status=failure.status, text=text, headers=headers)

    def _headers(self, query_id: str) -> dict[str, str]:
        # A query id comes from the client: what cannot stand in a header is dropped.
        printable = "".join(c for c in query_id if " " <= c <= "~")[:128]
        return {"X-ClickHouse-Server-Display-Name": self._engine.host, "X-ClickHouse-Query-Id": printable}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
