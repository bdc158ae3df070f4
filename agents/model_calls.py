"""One call to a model, timed and bounded, with its stream published as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from fairlane.clock import Clock
from fairlane.ports import Call, Completion, Provider, ProviderError, Record
from fairlane.schemas.errors import ErrorCode, ErrorDetail, error
from fairlane.schemas.job import Job
from fairlane.schemas.result import Usage
from fairlane.telemetry import get_logger

_log = get_logger(__name__)

UNACKNOWLEDGED_CHUNKS_MAX = 64
"""Pieces of one stream that may wait for the log; a provider that is faster is read more slowly."""

PublishChunk = Callable[[int, dict[str, Any], bool], asyncio.Future[Record]]
"""Writes a piece of the stream: its sequence, the provider's event, whether it is the last one."""


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """How one call ended. Times are milliseconds since the epoch, ``model_ms`` is measured monotonically."""

    number: int
    started_ms: int = 0
    completed_ms: int = 0
    model_ms: float = 0.0
    first_token_ms: int | None = None
    completion: Completion | None = None
    failure: ErrorDetail | None = None
    http_status: int | None = None
    provider_request_id: str | None = None
    usage: Usage = field(default_factory=Usage)
    usage_estimated: bool = False


def provider_body(job: Job, output_limit: int) -> dict[str, Any]:
    """The tenant's body as the provider gets it.

    A limit is set where the tenant set none, under the name the tenant used: only with a limit is the
    hold a bound of the cost. ``output_limit`` is that of all ``n`` choices together.
    """
    body = {name: value for name, value in job.body.items() if name not in {"stream", "stream_options"}}
    body["model"] = job.route.provider_model
    if body.get("max_completion_tokens") is None and body.get("max_tokens") is None:
        name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        body.pop("max_tokens", None)
        body[name] = max(1, output_limit // (body.get("n") or 1))
    if job.stream:
        body["stream"] = True
        # Without it a stream reports no usage, and the answer could not be billed as it was.
        body["stream_options"] = {**(job.body.get("stream_options") or {}), "include_usage": True}
    return body


class ModelCalls:
    """Calls models by the kind of their provider."""

    def __init__(self, providers: Mapping[str, Provider], clock: Clock) -> None:
        self._providers = providers
        self._clock = clock

    def knows(self, kind: str) -> bool:
        """Whether there is an adapter for providers of this kind."""
        return kind in self._providers

    async def call(
        self, job: Job, number: int, output_limit: int, timeout_ms: int, publish_chunk: PublishChunk
    ) -> CallOutcome:
        """Call number ``number`` for a job. A failure of the provider is an outcome, not an exception."""
        provider = self._providers[job.route.kind]
        call = Call(
            base_url=job.route.base_url,
            key=job.route.key,
            body=provider_body(job, output_limit),
            timeout_s=timeout_ms / 1000,
            # Request ids are unique within a tenant only.
            request_id=f"{job.tenant_id}/{job.request_id}",
            traceparent=job.traceparent,
        )
        started_ms, started = self._clock.now_ms(), self._clock.monotonic()
        stream = _Stream(publish_chunk, self._clock)
        try:
            completion = await (stream.relay(provider, call) if job.stream else provider.complete(call))
        except ProviderError as failure:
            outcome = CallOutcome(
                number=number,
                failure=failure.detail,
                http_status=failure.http_status,
                provider_request_id=failure.provider_request_id,
                usage=failure.billed or Usage(),
                usage_estimated=failure.usage_estimated,
            )
        except Exception as bug:  # noqa: BLE001 - a bug in an adapter fails one call, not the worker
            _log.exception("provider_adapter_failed", provider=job.route.provider, request_id=job.request_id)
            message = f"the adapter for {job.route.kind} failed: {type(bug).__name__}"
            outcome = CallOutcome(number=number, failure=error(ErrorCode.INTERNAL, message))
        else:
            outcome = CallOutcome(
                number=number,
                completion=completion,
                http_status=completion.http_status,
                provider_request_id=completion.provider_request_id,
                usage=completion.usage,
                usage_estimated=completion.usage_estimated,
            )
        outcome = replace(
            outcome,
            started_ms=started_ms,
            completed_ms=max(self._clock.now_ms(), started_ms),
            model_ms=(self._clock.monotonic() - started) * 1000,
            first_token_ms=stream.first_token_ms,
        )
        await stream.settled()
        return outcome


class _Stream:
    """Relays one stream to the log."""

    def __init__(self, publish: PublishChunk, clock: Clock) -> None:
        self._publish = publish
        self._clock = clock
        self._sequence = 0
        self._unacknowledged: deque[asyncio.Future[Record]] = deque()
        self.first_token_ms: int | None = None

    async def relay(self, provider: Provider, call: Call) -> Completion:
        async with aclosing(provider.stream(call)) as items:
            async for item in items:
                if isinstance(item, Completion):
                    await self._send({}, last=True)
                    return item
                if self.first_token_ms is None and _says_something(item.event):
                    self.first_token_ms = self._clock.now_ms()
                await self._send(dict(item.event), last=False)
        raise AssertionError("a stream of a Provider ends with its Completion")

    async def settled(self) -> None:
        """Wait until every piece is in the log or lost."""
        await self._acknowledged(0)

    async def _send(self, event: dict[str, Any], *, last: bool) -> None:
        piece = self._publish(self._sequence, event, last)
        piece.add_done_callback(_note_loss)
        self._unacknowledged.append(piece)
        self._sequence += 1
        await self._acknowledged(UNACKNOWLEDGED_CHUNKS_MAX)

    async def _acknowledged(self, at_most: int) -> None:
        while len(self._unacknowledged) > at_most:
            await asyncio.wait((self._unacknowledged.popleft(),))


def _note_loss(piece: asyncio.Future[Record]) -> None:
    """A piece that the log did not take is missing from the stream only: the result holds the whole answer."""
    if not piece.cancelled() and (failure := piece.exception()) is not None:
        _log.warning("chunk_lost", error=str(failure))


def _says_something(event: Mapping[str, Any]) -> bool:
    for choice in event.get("choices") or ():
        delta = choice.get("delta")
        if isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
            return True
    return False
