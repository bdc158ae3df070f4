"""The simulator as an HTTP server: chat completions (plain and streamed), models, health, counts."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import ValidationError

from fairlane.adapters.simulator.answer import Answer, BadRequest, plan
from fairlane.adapters.simulator.behaviour import LISTED_MODELS, Behaviour, Fault, behaviour_of
from fairlane.adapters.simulator.calls import CallCounts
from fairlane.adapters.simulator.http_connection import Call, HttpConnection
from fairlane.schemas.chat import ChatBody
from fairlane.schemas.codec import violation

REQUEST_ID_HEADER = "x-client-request-id"
"""Where OpenAI takes a caller's own id of a request; names of headers come in small letters."""
EXTRA_PARAMS = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Undocumented parameters taken, as vLLM takes them; any other is refused, as OpenAI does."""
MAX_BODY_BYTES = 32 * 2**20
_HUGE_MEBIBYTES = 64
_DRIP_MS = 50.0
_PIECE_MS = 20.0
_PIECE_WORDS = 16
_JSON = "application/json"


class Simulator:
    """The server. ``time_scale`` multiplies every delay; with ``api_key`` other keys get 401."""

    def __init__(self, *, time_scale: float = 1.0, api_key: str | None = None) -> None:
        self._time_scale = time_scale
        self._authorization = f"Bearer {api_key}" if api_key is not None else None
        self._calls = CallCounts()
        self._ids = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._connections: set[HttpConnection] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen (port 0: a free one) and return the base URL that clients take, ending in ``/v1``.

        Raises OSError if the address cannot be had.
        """
        self._server = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self._take, MAX_BODY_BYTES, self._connections), host, port, backlog=1024
        )
        return f"http://{host}:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        """Stop listening; calls in flight are cut."""
        if self._server is not None:
            self._server.close()
            for connection in self._connections:
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    def counts(self) -> dict[str, Any]:
        """What ``GET /stats`` answers."""
        return self._calls.snapshot()

    async def _take(self, call: Call) -> None:
        match call.method, call.path:
            case "POST", "/v1/chat/completions":
                await self._chat(call)
            case "GET" | "HEAD", "/v1/models":
                listed = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "fairlane"} for name in LISTED_MODELS
                ]
                call.answer(200, _JSON, orjson.dumps({"object": "list", "data": listed}))
            case "GET" | "HEAD", "/healthz":
                call.answer(200, "text/plain", b"ok\n")
            case "GET" | "HEAD", "/stats":
                call.answer(200, _JSON, orjson.dumps(self.counts()))
            case _, "/v1/chat/completions" | "/v1/models" | "/healthz" | "/stats":
                _refuse(call, 405, "this path takes another method", None, "method_not_allowed")
            case _:
                _refuse(call, 404, "the simulator has no such path", None, "unknown_url")

    async def _chat(self, call: Call) -> None:
        if self._authorization is not None and call.headers.get("authorization") != self._authorization:
            return _refuse(call, 401, "the API key is wrong or missing", None, "invalid_api_key")
        if call.too_large:
            return _refuse(call, 413, f"the body is larger than {MAX_BODY_BYTES} bytes", None, "request_too_large")
        raw = call.body
        try:
            body = _checked(raw)
            behaviour = behaviour_of(body.model)
            if behaviour is None:
                return _refuse(call, 404, "the simulator has no model of this name", "model", "model_not_found")
            answer = plan(body, f"chatcmpl-sim-{next(self._ids)}")
        except BadRequest as failure:
            return _refuse(call, 400, str(failure), failure.param, None)
        nth = self._calls.begin(body.model, call.headers.get(REQUEST_ID_HEADER))
        status: int | None = None
        try:
            if behaviour.fault is Fault.FLAKY and _unlucky(raw, nth, behaviour.percent):
                status = _fail(call, behaviour)
            else:
                status = await self._answer(call, body, behaviour, answer)
        finally:
            # None: the caller left before there was a whole answer.
            self._calls.end(status)

    async def _answer(self, call: Call, body: ChatBody, behaviour: Behaviour, answer: Answer) -> int:
        match behaviour.fault:
            case Fault.STATUS:
                return _fail(call, behaviour)
            case Fault.QUOTA:
                _refuse(call, 429, "the quota is used up", None, "insufficient_quota")
                return 429
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.HUGE:
                return await _huge(call)
        if body.stream:
            return await self._stream(call, body, behaviour, answer)
        await self._wait(behaviour.first_token_ms + _generation_ms(behaviour, answer.tokens))
        content = answer.completion(with_usage=behaviour.fault is not Fault.NO_USAGE)
        match behaviour.fault:
            case Fault.BAD_JSON:
                content = content[:-2]
            case Fault.NOT_CHAT:
                content = b'{"object": "list", "data": []}'
            case Fault.DRIP:
                call.begin(200, _JSON, length=len(content))
                await self._drip(call, content)
                call.end()
                return 200
            case Fault.CUT:
                call.begin(200, _JSON, length=len(content))
                await call.write(content[: len(content) // 2])
                call.cut()
                return 200
        call.answer(200, _JSON, content, [("x-request-id", answer.answer_id)])
        return 200

    async def _stream(self, call: Call, body: ChatBody, behaviour: Behaviour, answer: Answer) -> int:
        options = body.stream_options
        include_usage = bool(options and options.include_usage) and behaviour.fault is not Fault.NO_USAGE
        loop = asyncio.get_running_loop()
        call.begin(200, "text/event-stream", [("x-request-id", answer.answer_id), ("Cache-Control", "no-cache")])
        started = loop.time()

        async def write(content: bytes) -> None:
            await (self._drip(call, content) if behaviour.fault is Fault.DRIP else call.write(content))

        if behaviour.fault is Fault.NOT_CHAT:
            await write(b'data: {"object": "list"}\n\ndata: [DONE]\n\n')
            call.end()
            return 200
        await write(answer.opening(include_usage=include_usage))
        if behaviour.fault is Fault.BAD_JSON:
            await write(b'data: {"choices": [\n\n')
        each = max(1, round(behaviour.tokens_per_s * _PIECE_MS / 1000)) if behaviour.first_token_ms else _PIECE_WORDS
        for sent, piece in answer.pieces(each, include_usage=include_usage):
            due_ms = behaviour.first_token_ms + _generation_ms(behaviour, sent)
            # Against the start of the call, so that late wake-ups do not add up.
            await self._wait(due_ms - (loop.time() - started) * 1000 / (self._time_scale or 1))
            await write(piece)
            if behaviour.fault is Fault.CUT:
                call.cut()
                return 200
        await write(answer.ending(include_usage=include_usage))
        call.end()
        return 200

    async def _wait(self, milliseconds: float) -> None:
        seconds = milliseconds * self._time_scale / 1000
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _drip(self, call: Call, content: bytes) -> None:
        for at in range(len(content)):
            await call.write(content[at : at + 1])
            await self._wait(_DRIP_MS)


def _generation_ms(behaviour: Behaviour, tokens: int) -> float:
    return 1000 * tokens / behaviour.tokens_per_s


def _checked(raw: bytes) -> ChatBody:
    try:
        body = ChatBody.model_validate_json(raw)
    except ValidationError as failure:
        detail = violation(failure)
        raise BadRequest(detail.message, detail.field or "") from None
    unknown = sorted((body.model_extra or {}).keys() - EXTRA_PARAMS)
    if unknown:
        raise BadRequest("the parameter is not known", unknown[0][:100])
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options is only allowed where stream is true", "stream_options")
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise BadRequest("set max_completion_tokens or max_tokens, not both", "max_tokens")
    return body


def _unlucky(raw: bytes, nth: int, percent: int) -> bool:
    """The same body fails or succeeds the same way on every run, but its next try has a new chance."""
    digest = hashlib.blake2b(raw, digest_size=8, key=str(nth).encode()).digest()
    return int.from_bytes(digest, "big") % 100 < percent


def _refuse(
    call: Call, status: int, message: str, param: str | None, code: str | None, headers: Sequence[tuple[str, str]] = ()
) -> None:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    call.answer(status, _JSON, orjson.dumps({"error": error}), headers)


def _fail(call: Call, behaviour: Behaviour) -> int:
    after = behaviour.retry_after_s
    headers = [("Retry-After", str(after))] if after is not None else []
    _refuse(call, behaviour.status, f"the model answers {behaviour.status} to every call", None, None, headers)
    return behaviour.status


async def _huge(call: Call) -> int:
    call.begin(200, _JSON)
    await call.write(b'{"object": "chat.completion", "padding": "')
    for _ in range(_HUGE_MEBIBYTES):
        await call.write(b" " * 2**20)
    await call.write(b'"}')
    call.end()
    return 200
