"""A provider: the place that answers a call to a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fairlane.schemas.errors import ErrorDetail
from fairlane.schemas.result import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a provider. ``body`` is a chat-completions body with the provider's model name."""

    base_url: str
    key: str | None
    """``env:NAME`` of the secret, resolved by the adapter at the moment of the call."""
    body: Mapping[str, Any]
    timeout_s: float
    request_id: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A successful answer; ``response`` is the chat.completion object as the provider sent it."""

    response: Mapping[str, Any]
    usage: Usage
    http_status: int
    provider_request_id: str | None = None
    finish_reason: str | None = None
    usage_estimated: bool = False
    """The provider reported no usage: ``usage`` was counted from the bytes of question and answer."""


@dataclass(frozen=True, slots=True)
class Delta:
    """One event of a stream: the chat.completion.chunk object."""

    event: Mapping[str, Any]


class ProviderError(Exception):
    """A call that gave no usable answer, classified. Carries no secret and no body."""

    def __init__(
        self,
        detail: ErrorDetail,
        *,
        http_status: int | None = None,
        billed: Usage | None = None,
        usage_estimated: bool = False,
        provider_request_id: str | None = None,
    ) -> None:
        super().__init__(f"{detail.code}: {detail.message}")
        self.detail = detail
        self.http_status = http_status
        self.billed = billed
        """Tokens of the answer so far (a cut stream), if there were any."""
        self.usage_estimated = usage_estimated
        """Whether ``billed`` was counted by us because the provider had not reported it yet."""
        self.provider_request_id = provider_request_id


class Provider(Protocol):
    """Calls a model. Never retries; only one layer does, and it is not this one."""

    async def complete(self, call: Call) -> Completion:
        """One whole answer. Raises :class:`ProviderError`."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Delta | Completion, None]:
        """Deltas as they come, then one :class:`Completion` assembled from them. Raises ProviderError.

        Whoever stops early closes the generator, which ends the call.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
