"""The simulator as an HTTP server: chat completions (plain and streamed), models, health, counts."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from fairlane.adapters.simulator.answer import Answer, BadRequest, plan
from fairlane.adapters.simulator.behaviour import LISTED_MODELS, Behaviour, Fault, behaviour_of
from fairlane.adapters.simulator.calls import CallCounts
from fairlane.schemas.chat import ChatBody
from fairlane.schemas.codec import violation

REQUEST_ID_HEADER = "X-Client-Request-Id"
"""Where OpenAI takes a caller's own id of a request."""
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
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen (port 0: a free one) and return the base URL that clients take, ending in ``/v1``.

        Raises OSError if the address cannot be had.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/healthz", self._healthz),
                web.get("/stats", self._stats),
            ]
        )
        # Without cancellation a model that hangs would keep the calls of clients that left long ago.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        bound = self._runner.addresses[0][1]
        return f"http://{host}:{bound}/v1"

    async def stop(self) -> None:
        """Stop listening; calls in flight are cut."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def counts(self) -> dict[str, Any]:
        """What ``GET /stats`` answers."""
        return self._calls.snapshot()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.counts()), content_type=_JSON)

    async def _models(self, _request: web.Request) -> web.Response:
        listed = [{"id": model, "object": "model", "created": 0, "owned_by": "fairlane"} for model in LISTED_MODELS]
        return web.Response(body=orjson.dumps({"object": "list", "data": listed}), content_type=_JSON)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        if self._authorization is not None and request.headers.get("Authorization") != self._authorization:
            return _refusal(401, "the API key is wrong or missing", None, "invalid_api_key")
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes", None, "request_too_large")
        try:
            body = _checked(raw)
            behaviour = behaviour_of(body.model)
            if behaviour is None:
                return _refusal(404, "the simulator has no model of this name", "model", "model_not_found")
            answer = plan(body, f"chatcmpl-sim-{next(self._ids)}")
        except BadRequest as failure:
            return _refusal(400, str(failure), failure.param, None)
        nth = self._calls.begin(body.model, request.headers.get(REQUEST_ID_HEADER))
        status: int | None = None
        try:
            response = await self._answer(request, body, behaviour, answer, (raw, nth))
            status = response.status
            return response
        except ConnectionResetError:
            # The caller left in the middle of the answer: nobody is there to read a status.
            return web.Response(status=499)
        finally:
            self._calls.end(status)

    async def _answer(
        self, request: web.Request, body: ChatBody, behaviour: Behaviour, answer: Answer, call: tuple[bytes, int]
    ) -> web.StreamResponse:
        match behaviour.fault:
            case Fault.STATUS:
                return _failure(behaviour)
            case Fault.QUOTA:
                return _refusal(429, "the quota is used up", None, "insufficient_quota")
            case Fault.FLAKY if _unlucky(*call, behaviour.percent):
                return _failure(behaviour)
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.HUGE:
                return await _huge(request)
        if body.stream:
            return await self._stream(request, body, behaviour, answer)
        await self._wait(behaviour.first_token_ms + _generation_ms(behaviour, answer.tokens))
        content = answer.completion(with_usage=behaviour.fault is not Fault.NO_USAGE)
        match behaviour.fault:
            case Fault.BAD_JSON:
                content = content[:-2]
            case Fault.NOT_CHAT:
                content = b'{"object": "list", "data": []}'
            case Fault.DRIP:
                return await _raw(request, _JSON, content, self._drip)
            case Fault.CUT:
                return await _raw(request, _JSON, content, _half_then_close(request))
        return web.Response(body=content, content_type=_JSON, headers={"x-request-id": answer.answer_id})

    async def _stream(
        self, request: web.Request, body: ChatBody, behaviour: Behaviour, answer: Answer
    ) -> web.StreamResponse:
        options = body.stream_options
        include_usage = bool(options and options.include_usage) and behaviour.fault is not Fault.NO_USAGE
        loop = asyncio.get_running_loop()
        response = web.StreamResponse(headers={"x-request-id": answer.answer_id, "Cache-Control": "no-cache"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        started = loop.time()
        write = self._drip if behaviour.fault is Fault.DRIP else _write
        if behaviour.fault is Fault.NOT_CHAT:
            await write(response, b'data: {"object": "list"}\n\ndata: [DONE]\n\n')
            return response
        await write(response, answer.opening(include_usage=include_usage))
        if behaviour.fault is Fault.BAD_JSON:
            await write(response, b'data: {"choices": [\n\n')
        each = max(1, round(behaviour.tokens_per_s * _PIECE_MS / 1000)) if behaviour.first_token_ms else _PIECE_WORDS
        for sent, piece in answer.pieces(each, include_usage=include_usage):
            due_ms = behaviour.first_token_ms + _generation_ms(behaviour, sent)
            # Against the start of the call, so that late wake-ups do not add up.
            await self._wait(due_ms - (loop.time() - started) * 1000 / (self._time_scale or 1))
            await write(response, piece)
            if behaviour.fault is Fault.CUT:
                _close(request)
                return response
        await write(response, answer.ending(include_usage=include_usage))
        await response.write_eof()
        return response

    async def _wait(self, milliseconds: float) -> None:
        seconds = milliseconds * self._time_scale / 1000
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _drip(self, response: web.StreamResponse, content: bytes) -> None:
        for at in range(len(content)):
            await response.write(content[at : at + 1])
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


def _refusal(status: int, message: str, param: str | None, code: str | None) -> web.Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return web.Response(status=status, body=orjson.dumps({"error": error}), content_type=_JSON)


def _failure(behaviour: Behaviour) -> web.Response:
    response = _refusal(behaviour.status, f"the model answers {behaviour.status} to every call", None, None)
    if behaviour.retry_after_s is not None:
        response.headers["Retry-After"] = str(behaviour.retry_after_s)
    return response


_Writer = Callable[[web.StreamResponse, bytes], Awaitable[None]]


async def _raw(request: web.Request, content_type: str, content: bytes, write: _Writer) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = content_type
    response.content_length = len(content)
    await response.prepare(request)
    await write(response, content)
    return response


async def _write(response: web.StreamResponse, content: bytes) -> None:
    await response.write(content)


def _half_then_close(request: web.Request) -> _Writer:
    async def write(response: web.StreamResponse, content: bytes) -> None:
        await response.write(content[: len(content) // 2])
        _close(request)

    return write


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


async def _huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = _JSON
    await response.prepare(request)
    await response.write(b'{"object": "chat.completion", "padding": "')
    for _ in range(_HUGE_MEBIBYTES):
        await response.write(b" " * 2**20)
    await response.write(b'"}')
    return response
