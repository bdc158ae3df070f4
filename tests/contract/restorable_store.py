"""What a store does that was emptied and is filled again; run on the in-memory twin and on Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from fairlane.ports import (
    Admission,
    AdmissionOutcome,
    AdmissionStore,
    Answered,
    Joined,
    Known,
    RestorableStore,
    Restoration,
    Settlement,
    StoreEmptied,
    TenantUsage,
    Waiting,
)
from tests.contract.admission_store import TTL_S, admit, request, settle, settlement

Empty = Callable[[], Awaitable[None]]


def waiting(request_id: str, *, key: str | None = None, hold: int = 100, dispatched: bool = False) -> Waiting:
    return Waiting("acme", request_id, key or request_id, f"requests/0/{request_id}", "f", hold, dispatched, TTL_S)


def ended(request_id: str, *, key: str | None = None, cost: int = 40, admitted: bool = True) -> Settlement:
    outcome = AdmissionOutcome.ADMITTED if admitted else AdmissionOutcome.REJECTED
    known = Known(f"requests/0/{request_id}", "f", outcome, admitted)
    return replace(settlement(request_id, key=key, cost=cost), known_as=known)


async def fill(store: RestorableStore, *restorations: Restoration) -> None:
    assert await store.claim("me", 10_000)
    await store.restore("me", restorations)
    assert await store.complete("me")


async def usage(store: AdmissionStore) -> TenantUsage:
    return (await store.usage(["acme"]))[0]


class RestorableStoreBehaviour:
    """Subclasses provide the fixtures ``store``, live, and ``empty``."""

    async def test_an_emptied_store_decides_nothing_until_it_is_filled(
        self, store: RestorableStore, empty: Empty
    ) -> None:
        await store.admit([request()])
        assert await store.live()
        await empty()
        assert not await store.live()
        with pytest.raises(StoreEmptied):
            await store.admit([request()])
        with pytest.raises(StoreEmptied):
            await store.dispatched([("acme", "r-1")])
        with pytest.raises(StoreEmptied):
            await store.settle([settlement()])
        with pytest.raises(StoreEmptied):
            await store.followers_answered([Answered("acme", "k", ("r-1",))])
        await fill(store)
        assert await store.live()
        assert await admit(store, request()) == [AdmissionOutcome.ADMITTED]

    async def test_one_fills_it_and_who_lost_the_claim_cannot_go_on(self, store: RestorableStore, empty: Empty) -> None:
        assert not await store.claim("me", 10_000), "a live store needs no filling"
        await empty()
        assert await store.claim("me", 10_000)
        assert await store.claim("me", 10_000), "a claim can be kept"
        assert not await store.claim("other", 10_000)
        with pytest.raises(StoreEmptied):
            await store.restore("other", [waiting("r-1")])
        assert not await store.complete("other")
        assert await store.complete("me")
        assert not await store.complete("me")
        with pytest.raises(StoreEmptied):
            await store.restore("me", [waiting("r-1")])

    async def test_what_waits_and_what_is_in_flight_is_held_and_counted_again(
        self, store: RestorableStore, empty: Empty
    ) -> None:
        await empty()
        await fill(store, waiting("r-1", hold=5), waiting("r-2", hold=7, dispatched=True), waiting("r-2", hold=7))
        assert await usage(store) == TenantUsage(held_nano_usd=12, undispatched=1, in_flight=1)
        assert await store.admit([request("r-1"), request("r-2")]) == [
            Admission(AdmissionOutcome.ADMITTED, 1, 12, 0, None, "r-1"),
            Admission(AdmissionOutcome.DUPLICATE),
        ]
        await settle(store, settlement("r-1", cost=3))
        await settle(store, settlement("r-2", cost=4))
        assert await usage(store) == TenantUsage(spent_nano_usd=7)

    async def test_an_answer_is_known_again_to_its_request_and_to_its_key(
        self, store: RestorableStore, empty: Empty
    ) -> None:
        await empty()
        await fill(store, ended("r-1", key="k", cost=40), ended("r-1", key="k", cost=99), waiting("r-1", key="k"))
        assert await usage(store) == TenantUsage(spent_nano_usd=40)
        assert await admit(store, request("r-2", key="k"), request("r-3", key="k", fingerprint="other")) == [
            AdmissionOutcome.REPLAY,
            AdmissionOutcome.IDEMPOTENCY_MISMATCH,
        ]
        again = [request("r-1", key="k"), request("r-1", key="k", source="s/0/9"), request("r-1", fingerprint="other")]
        assert await admit(store, *again) == [
            AdmissionOutcome.DUPLICATE,
            AdmissionOutcome.REPLAY,
            AdmissionOutcome.REQUEST_ID_REUSED,
        ]

    async def test_a_rejection_is_known_again_and_claims_no_key(self, store: RestorableStore, empty: Empty) -> None:
        await empty()
        await fill(store, ended("r-1", key="k", cost=0, admitted=False))
        assert await admit(store, request("r-1", key="k"), request("r-2", key="k")) == [
            AdmissionOutcome.REJECTED,
            AdmissionOutcome.ADMITTED,
        ]

    async def test_who_joined_is_answered_with_the_owner_whichever_is_told_first(
        self, store: RestorableStore, empty: Empty
    ) -> None:
        await empty()
        joined = Joined("acme", "r-2", "k", "requests/0/r-2", "f", "r-1", b"two", TTL_S)
        await fill(store, joined, joined, waiting("r-1", key="k"), replace(joined, request_id="r-3", envelope=b"three"))
        assert await admit(store, request("r-2", key="k")) == [AdmissionOutcome.JOINED]
        settled = await settle(store, settlement("r-1", key="k"))
        assert sorted(settled.followers) == [("r-2", b"two"), ("r-3", b"three")]

    async def test_who_joined_and_has_its_answer_is_not_answered_again(
        self, store: RestorableStore, empty: Empty
    ) -> None:
        await empty()
        joined = Joined("acme", "r-2", "k", "requests/0/r-2", "f", "r-1", b"two", TTL_S)
        answered = replace(ended("r-2", key="k", cost=0, admitted=False), answer="0/9")
        await fill(store, joined, waiting("r-1", key="k", dispatched=True), answered, joined)
        assert (await settle(store, settlement("r-1", key="k"))).followers == ()

    async def test_filling_that_is_begun_again_ends_the_same(self, store: RestorableStore, empty: Empty) -> None:
        told = (waiting("r-1", hold=5), ended("r-2"), waiting("r-3", hold=7, dispatched=True))
        await empty()
        assert await store.claim("died", 10_000)
        await store.restore("died", told[:2])
        await store.restore("died", [ended("r-1", cost=2), *told])
        assert await store.complete("died")
        assert await usage(store) == TenantUsage(held_nano_usd=7, spent_nano_usd=42, in_flight=1)
