"""The in-memory twin of the Redis admission store: for tests, simulations and users' own tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fairlane.policy.admission import TenantAdmission
from fairlane.ports import (
    Admission,
    AdmissionOutcome,
    AdmissionRequest,
    Answered,
    Settled,
    Settlement,
    TenantUsage,
)


class MemoryAdmissionStore:
    """An :class:`~fairlane.ports.AdmissionStore` on the reference model. Nothing expires."""

    def __init__(self) -> None:
        self._tenants: defaultdict[str, TenantAdmission] = defaultdict(TenantAdmission)

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        """Decide each request in order."""
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
        for tenant_id, request_id in requests:
            self._tenants[tenant_id].dispatched(request_id)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Book each result once."""
        return [self._settle(settlement) for settlement in settlements]

    def _settle(self, settlement: Settlement) -> Settled:
        booked = self._tenants[settlement.tenant_id].settle(
            request_id=settlement.request_id,
            idempotency_key=settlement.idempotency_key,
            cost=settlement.cost_nano_usd,
            answer=settlement.answer,
            replayable=settlement.replayable,
        )
        return Settled(booked.first, booked.released, booked.idempotency_key, booked.followers)

    async def followers_answered(self, answered: Sequence[Answered]) -> None:
        """Forget followers whose results are in the log."""
        for item in answered:
            self._tenants[item.tenant_id].followers_answered(item.idempotency_key, item.followers)

    async def usage(self, tenant_ids: Sequence[str]) -> Sequence[TenantUsage]:
        """Live figures."""
        figures = [self._tenants[tenant_id].figures for tenant_id in tenant_ids]
        return [TenantUsage(f.held, f.spent, f.undispatched, f.in_flight) for f in figures]
