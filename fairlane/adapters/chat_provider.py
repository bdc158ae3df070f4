"""The :class:`~fairlane.ports.Provider` for chat completions over any HTTP client.

A client is a :class:`Transport`; everything that decides what a call came to (deadline, classification,
usage, size) is here, once for all of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from fairlane.adapters.chat_answer import Malformed, completion, estimated_usage, parse, reported_usage
from fairlane.adapters.chat_failures import ERROR_BODY_BYTES, refused
from fairlane.adapters.chat_stream import Assembly, EventDecoder, StreamFailed
from fairlane.clock import Clock
from fairlane.ports import Call, Completion, Delta, ProviderError
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.headers import TRACEPARENT

ANSWER_BYTES_MAX = 16 * 2**20
CONNECT_TIMEOUT_S = 10.0
"""A provider that takes no connection for so long is away; no need to wait for the call's deadline."""
REQUEST_ID_HEADER = "X-Client-Request-Id"
"""Our id of the request, for the provider's support: https://platform.openai.com/docs/api-reference/debugging-requests"""
_PROVIDER_REQUEST_ID_MAX = 128
_LAST_READ_S = 0.05


class ConnectionFailed(Exception):
    """Raised by a transport: no connection, or it ended before the answer did."""


class HttpAnswer(Protocol):
    """An answer whose body is still to be read."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; looking up a name does not care for case."""
        ...

    async def read(self) -> bytes:
        """Some bytes as they come, empty at the end; raises :class:`ConnectionFailed` or Malformed."""
        ...


@dataclass(frozen=True, slots=True)
class HttpCall:
    """What a transport sends; ``headers`` hold everything but the content type and the key."""

    base_url: str
    body: Mapping[str, Any]
    stream: bool
    key: str | None
    headers: Mapping[str, str]


class Transport(Protocol):
    """An HTTP client. Follows no redirect, retries nothing, pools a bounded number of connections."""

    def send(self, call: HttpCall) -> AbstractAsyncContextManager[HttpAnswer]:
        """POST to ``<base_url>/chat/completions``; leaving early closes the connection.

        Raises :class:`ConnectionFailed` or :class:`~fairlane.adapters.chat_answer.Malformed` (not HTTP).
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class ChatProvider:
    """A Provider over a transport. ``environment`` gives the value of a variable, for the keys."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        environment: Callable[[str], str | None] = os.environ.get,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._environment = environment
        self._answer_bytes_max = answer_bytes_max

    async def complete(self, call: Call) -> Completion:
        """One whole answer within ``call.timeout_s``. Raises :class:`~fairlane.ports.ProviderError`."""
        status: int | None = None
        try:
            async with asyncio.timeout(call.timeout_s):
                async with self._transport.send(self._http_call(call, stream=False)) as answer:
                    status = answer.status
                    if status != 200:
                        raise await self._refusal(call, answer)
                    request_id = _request_id(answer)
                    content = await self._read_whole(answer)
            return completion(call.body, parse(content), http_status=status, provider_request_id=request_id)
        except TimeoutError:
            raise _timed_out(call, status) from None
        except ConnectionFailed as failure:
            raise _unavailable(str(failure), status) from None
        except Malformed as failure:
            raise ProviderError(error(ErrorCode.INVALID_RESPONSE, str(failure)), http_status=status) from None

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Completion, None]:
        """Deltas, then the completion, within ``call.timeout_s``. Raises ProviderError with what was billed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.timeout_s
        assembly = Assembly()
        status: int | None = None
        request_id: str | None = None
        try:
            async with AsyncExitStack() as stack:
                # A timeout must not span a yield: it would cancel whatever the caller does meanwhile.
                async with asyncio.timeout_at(deadline):
                    answer = await stack.enter_async_context(self._transport.send(self._http_call(call, stream=True)))
                    status = answer.status
                    if status != 200:
                        raise await self._refusal(call, answer)
                request_id = _request_id(answer)
                async for data in self._events(answer, deadline):
                    event = assembly.take(data)
                    if event is None:
                        await _read_end(answer)
                        break
                    yield Delta(event)
            if not assembly.complete:
                if assembly.ended or not assembly.events:
                    raise Malformed("the stream holds no answer")
                raise ConnectionFailed("the provider ended the stream before its answer")
        except TimeoutError:
            raise _with_billed(_timed_out(call, status), call, assembly, request_id) from None
        except (ConnectionFailed, StreamFailed) as failure:
            message = str(failure) or "the provider reported a failure inside its stream"
            raise _with_billed(_unavailable(message, status), call, assembly, request_id) from None
        except Malformed as failure:
            invalid = ProviderError(error(ErrorCode.INVALID_RESPONSE, str(failure)), http_status=status)
            raise _with_billed(invalid, call, assembly, request_id) from None
        yield completion(call.body, assembly.answer(), http_status=status, provider_request_id=request_id)

    async def close(self) -> None:
        """Close connections."""
        await self._transport.close()

    def _http_call(self, call: Call, *, stream: bool) -> HttpCall:
        headers = {REQUEST_ID_HEADER: call.request_id}
        if call.traceparent is not None:
            headers[TRACEPARENT] = call.traceparent
        return HttpCall(call.base_url.rstrip("/"), call.body, stream, self._key(call), headers)

    def _key(self, call: Call) -> str | None:
        if call.key is None:
            return None
        value = (self._environment(call.key.removeprefix("env:")) or "").strip()
        if not value:
            return None
        if not (value.isascii() and value.isprintable()):
            name = call.key.removeprefix("env:")
            raise ProviderError(
                error(
                    ErrorCode.PROVIDER_REFUSED,
                    "the provider's key cannot be sent: it has characters that no HTTP header takes",
                    hint=f"Set {name} in the environment of the workers to one line of visible ASCII.",
                )
            )
        return value

    async def _refusal(self, call: Call, answer: HttpAnswer) -> ProviderError:
        body = bytearray()
        try:
            while len(body) < ERROR_BODY_BYTES and (received := await answer.read()):
                body += received
        except (ConnectionFailed, Malformed):
            # The status alone tells what happened; the body would only have added the code.
            body.clear()
        failure = refused(
            answer.status,
            answer.headers,
            bytes(body[:ERROR_BODY_BYTES]),
            call.key,
            key_is_set=self._key(call) is not None,
            now_ms=self._clock.now_ms(),
        )
        failure.provider_request_id = _request_id(answer)
        return failure

    async def _read_whole(self, answer: HttpAnswer) -> bytes:
        parts: list[bytes] = []
        size = 0
        while received := await answer.read():
            size += len(received)
            if size > self._answer_bytes_max:
                raise Malformed(f"the answer is larger than {self._answer_bytes_max} bytes")
            parts.append(received)
        return b"".join(parts)

    async def _events(self, answer: HttpAnswer, deadline: float) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        decoder = EventDecoder()
        size = 0
        while True:
            # A read that is answered at once never lets the timeout fire, so look at the time as well.
            if loop.time() >= deadline:
                raise TimeoutError
            async with asyncio.timeout_at(deadline):
                received = await answer.read()
            if not received:
                return
            size += len(received)
            if size > self._answer_bytes_max:
                raise Malformed(f"the answer is larger than {self._answer_bytes_max} bytes")
            for data in decoder.feed(received):
                yield data


async def _read_end(answer: HttpAnswer) -> None:
    """After the end mark the body's own end follows; only then can the connection be used again."""
    try:
        async with asyncio.timeout(_LAST_READ_S):
            await answer.read()
    except (TimeoutError, ConnectionFailed, Malformed):
        return


def _request_id(answer: HttpAnswer) -> str | None:
    value = answer.headers.get("x-request-id", "")[:_PROVIDER_REQUEST_ID_MAX]
    return value if value and value.isascii() and value.isprintable() else None


def _timed_out(call: Call, status: int | None) -> ProviderError:
    message = f"the provider did not finish its answer within {call.timeout_s:.3f} s"
    return ProviderError(error(ErrorCode.PROVIDER_TIMEOUT, message), http_status=status)


def _unavailable(message: str, status: int | None) -> ProviderError:
    return ProviderError(error(ErrorCode.PROVIDER_UNAVAILABLE, message), http_status=status)


def _with_billed(failure: ProviderError, call: Call, assembly: Assembly, request_id: str | None) -> ProviderError:
    """What was said before a stream failed is billed by the provider, so it is told."""
    failure.provider_request_id = request_id
    reported = reported_usage(assembly.usage)
    if reported is not None:
        failure.billed = reported
    elif assembly.begun:
        failure.billed = estimated_usage(call.body, assembly.answer())
        failure.usage_estimated = True
    return failure
