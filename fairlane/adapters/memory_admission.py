"""The in-memory twin of the Redis admission store: for tests, simulations and users' own tests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from fairlane.policy.admission import TenantAdmission
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


class MemoryAdmissionStore:
    """A :class:`~fairlane.ports.RestorableStore` on the reference model. Nothing expires."""

    def __init__(self) -> None:
        self._tenants: defaultdict[str, TenantAdmission] = defaultdict(TenantAdmission)
        self.filled = True
        """Whether it knows what it should."""
        self._claim: tuple[str, float] = ("", 0.0)

    def empty(self) -> None:
        """Forget everything, as Redis does when it is flushed or started without its data."""
        self._tenants.clear()
        self.filled, self._claim = False, ("", 0.0)

    async def live(self) -> bool:
        """Whether it knows what it should."""
        return self.filled

    async def claim(self, token: str, ttl_ms: int) -> bool:
        """Get or keep the right to fill it."""
        now, (owner, until) = asyncio.get_running_loop().time(), self._claim
        if self.filled or (owner != token and now < until):
            return False
        self._claim = (token, now + ttl_ms / 1000)
        return True

    async def restore(self, token: str, restorations: Sequence[Restoration]) -> None:
        """Take what the log says."""
        self._check_claim(token)
        for item in restorations:
            tenant = self._tenants[item.tenant_id]
            if isinstance(item, Settlement):
                self._settle(item)
            elif isinstance(item, Joined):
                tenant.restore_joined(
                    request_id=item.request_id,
                    idempotency_key=item.idempotency_key,
                    fingerprint=item.fingerprint,
                    source=item.source,
                    owner=item.owner_request_id,
                    envelope=item.envelope,
                )
            else:
                tenant.restore_waiting(
                    request_id=item.request_id,
                    idempotency_key=item.idempotency_key,
                    fingerprint=item.fingerprint,
                    source=item.source,
                    hold=item.hold_nano_usd,
                    dispatched=item.dispatched,
                )

    async def complete(self, token: str) -> bool:
        """Live from now on."""
        owner, until = self._claim
        if self.filled or owner != token or asyncio.get_running_loop().time() >= until:
            return False
        self.filled, self._claim = True, ("", 0.0)
        return True

    def _check_claim(self, token: str) -> None:
        owner, until = self._claim
        if owner != token or asyncio.get_running_loop().time() >= until:
            raise StoreEmptied("another fills the store")

    def _check_live(self) -> None:
        if not self.filled:
            raise StoreEmptied("the store does not know what it knew")

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """Decide each request in order."""
        self._check_live()
        return [self._admit(request) for request in requests]

    def _admit(self, request: AdmissionRequest) -> Admission:
        verdict = self._tenants[request.tenant_id].admit(
            request_id=request.request_id,
            idempotency_key=request.idempotency_key,
            fingerprint=request.fingerprint,
            source=request.source,
            hold=request.hold_nano_usd,
            max_undispatched=request.max_undispatched,
            reject_code=request.reject_code,
            envelope=request.envelope,
        )
        return Admission(
            AdmissionOutcome(verdict.outcome),
            verdict.undispatched,
            verdict.held,
            verdict.spent,
            verdict.answer or None,
            verdict.owner or None,
        )

    async def dispatched(self, requests: Sequence[tuple[str, str]]) -> None:
        """These (tenant, request) have left their lane."""
        self._check_live()
        for tenant_id, request_id in requests:
            self._tenants[tenant_id].dispatched(request_id)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Book each result once."""
        self._check_live()
        return [self._settle(settlement) for settlement in settlements]

    def _settle(self, settlement: Settlement) -> Settled:
        booked = self._tenants[settlement.tenant_id].settle(
            request_id=settlement.request_id,
            idempotency_key=settlement.idempotency_key,
            cost=settlement.cost_nano_usd,
            answer=settlement.answer,
            replayable=settlement.replayable,
            **_known(settlement),
        )
        return Settled(booked.first, booked.released, booked.idempotency_key, booked.followers)

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """Forget followers whose results are in the log."""
        self._check_live()
        for item in answered:
            self._tenants[item.tenant_id].followers_answered(item.idempotency_key, item.followers)

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """Live figures."""
        figures = [self._tenants[tenant_id].figures for tenant_id in tenant_ids]
        return [TenantUsage(f.held, f.spent, f.undispatched, f.in_flight) for f in figures]


def _known(settlement: Settlement) -> dict[str, Any]:
    known = settlement.known_as
    if known is None:
        return {}
    return {
        "fingerprint": known.fingerprint,
        "source": known.source,
        "outcome": known.outcome.value,
        "admitted": known.admitted,
    }
