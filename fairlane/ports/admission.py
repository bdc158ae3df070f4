"""The admission store: idempotency, undispatched counts, holds and booked cost.

The store remembers, the log knows: a store that lost what it knew is told again what the log says
(:class:`RestorableStore`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fairlane.errors import Retry


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """One request for the admission step. Amounts are nano-dollars, ``source`` is topic/partition/offset."""

    tenant_id: str
    request_id: str
    idempotency_key: str
    fingerprint: str
    source: str
    hold_nano_usd: int
    max_undispatched: int
    ttl_s: int
    """How long the identity is remembered; at least as long as the request can live."""
    reject_code: str = ""
    """Set where the caller rejects the request anyway: then only its identity is claimed."""
    envelope: bytes = b""
    """What is needed to answer for this request should it only join another (compact JSON)."""


class AdmissionOutcome(StrEnum):
    """What was decided."""

    ADMITTED = "admitted"
    REJECTED = "rejected"
    """The caller's own rejection stands (and is the same on redelivery)."""
    JOINED = "joined"
    """Another request with this idempotency key is in flight: its answer will be this one's too."""
    DUPLICATE = "duplicate"
    """This very request is known and its effect is in the log or on its way: nothing to do."""
    REPLAY = "replay"
    """There is an answer already."""
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    REQUEST_ID_REUSED = "request_id_reused"
    QUEUE_FULL = "queue_full"


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision with the figures behind it. ``answer`` is ``partition/offset`` on ``results``."""

    outcome: AdmissionOutcome
    undispatched: int = 0
    held_nano_usd: int = 0
    spent_nano_usd: int = 0
    answer: str | None = None
    owner_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """How a request was decided: ``source`` is topic/partition/offset. If it was ``admitted``, its key is its own."""

    source: str
    fingerprint: str
    outcome: AdmissionOutcome
    admitted: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """A terminal result to book; ``answer`` is its ``partition/offset`` on ``results``.

    Only a ``replayable`` one answers later requests with the same idempotency key.
    """

    tenant_id: str
    request_id: str
    idempotency_key: str
    cost_nano_usd: int
    answer: str
    replayable: bool
    ttl_s: int
    known_as: Known | None = None
    """What the request's records say of it, for a store that does not know it any more."""


@dataclass(frozen=True, slots=True)
class Settled:
    """``first`` is False where nothing was left to book. ``followers``: (request id, envelope) of requests that
    joined under ``idempotency_key``, the one the request was admitted with if the store knows it.
    """

    first: bool
    released_nano_usd: int = 0
    idempotency_key: str = ""
    followers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """These followers of an owner have their results in the log."""

    tenant_id: str
    idempotency_key: str
    followers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """A tenant's live figures in nano-dollars and records."""

    held_nano_usd: int = 0
    spent_nano_usd: int = 0
    undispatched: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that the log shows in its lane, or bound to a slot."""

    tenant_id: str
    request_id: str
    idempotency_key: str
    source: str
    fingerprint: str
    hold_nano_usd: int
    dispatched: bool
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Joined:
    """A request that the log shows waiting for the answer of ``owner_request_id``; ``envelope`` as on admission."""

    tenant_id: str
    request_id: str
    idempotency_key: str
    source: str
    fingerprint: str
    owner_request_id: str
    envelope: bytes
    ttl_s: int


Restoration = Settlement | Waiting | Joined
"""What the log says about one request."""


class StoreEmptied(Retry):
    """The store does not know what it knew: it was flushed, or never filled. It is to be rebuilt first."""


class AdmissionStore(Protocol):
    """Idempotency, undispatched counts, holds and booked cost, each change one atomic step per request.

    Everything in it can be rebuilt from the log. All methods raise Retry while the store is away, and
    those that change something :class:`StoreEmptied` while it has to be rebuilt.
    Each is idempotent: the same call again changes nothing and gives the same answer.
    """

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """Decide each request atomically, in order, in one round trip."""
        ...

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        """These (tenant, request) have left their lane."""
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Release the hold, book the cost, keep the answer; once per request."""
        ...

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """Forget followers whose results are in the log."""
        ...

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """Live figures, for people and checks."""
        ...


class RestorableStore(AdmissionStore, Protocol):
    """A store that can be filled again from the log. Whoever fills it holds a claim, so that only one does."""

    async def live(self) -> bool:
        """Whether it knows what it should. Raises Retry while it is away."""
        ...

    async def claim(self, token: str, ttl_ms: int) -> bool:
        """Get, or keep for another ``ttl_ms``, the right to fill it. False while another has it or it is live."""
        ...

    async def restore(self, token: str, restorations: Sequence[Restoration]) -> None:
        """Tell it what the log says. What it is told twice, or knows to have gone further, changes nothing.

        Raises :class:`StoreEmptied` if the claim was lost.
        """
        ...

    async def complete(self, token: str) -> bool:
        """It knows everything now: live for all. False if the claim was lost."""
        ...
