"""What every admission store does; run on the in-memory twin and on Redis."""

from __future__ import annotations

from fairlane.ports import (
    Admission,
    AdmissionOutcome,
    AdmissionRequest,
    AdmissionStore,
    Answered,
    Known,
    Settled,
    Settlement,
    TenantUsage,
)

TTL_S = 3600


def request(
    request_id: str = "r-1",
    *,
    tenant: str = "acme",
    key: str | None = None,
    fingerprint: str = "f",
    source: str | None = None,
    hold: int = 100,
    cap: int = 10,
    reject: str = "",
    envelope: bytes = b"e",
) -> AdmissionRequest:
    return AdmissionRequest(
        tenant_id=tenant,
        request_id=request_id,
        idempotency_key=key or request_id,
        fingerprint=fingerprint,
        source=source or f"requests/0/{request_id}",
        hold_nano_usd=hold,
        max_undispatched=cap,
        ttl_s=TTL_S,
        reject_code=reject,
        envelope=envelope,
    )


def settlement(
    request_id: str = "r-1",
    *,
    tenant: str = "acme",
    key: str | None = None,
    cost: int = 40,
    answer: str = "0/7",
    replayable: bool = True,
    known: bool = False,
) -> Settlement:
    said = Known(f"requests/0/{request_id}", "f", AdmissionOutcome.ADMITTED, admitted=True) if known else None
    return Settlement(tenant, request_id, key or request_id, cost, answer, replayable, TTL_S, said)


async def admit(store: AdmissionStore, *requests: AdmissionRequest) -> list[AdmissionOutcome]:
    return [admission.outcome for admission in await store.admit(requests)]


async def settle(store: AdmissionStore, item: Settlement) -> Settled:
    return (await store.settle([item]))[0]


class AdmissionStoreBehaviour:
    """Subclasses provide the ``store`` fixture."""

    async def test_a_new_request_is_admitted_and_its_price_held(self, store: AdmissionStore) -> None:
        assert await store.admit([request(hold=100)]) == [
            Admission(AdmissionOutcome.ADMITTED, undispatched=1, held_nano_usd=100)
        ]

    async def test_a_redelivered_record_gets_the_same_outcome_and_holds_nothing_more(
        self, store: AdmissionStore
    ) -> None:
        assert await admit(store, request(), request()) == [AdmissionOutcome.ADMITTED] * 2
        [usage] = await store.usage(["acme"])
        assert (usage.held_nano_usd, usage.undispatched) == (100, 1)

    async def test_the_same_request_in_another_record_is_a_duplicate_while_in_flight(
        self, store: AdmissionStore
    ) -> None:
        outcomes = await admit(store, request(source="requests/0/1"), request(source="requests/5/2"))
        assert outcomes == [AdmissionOutcome.ADMITTED, AdmissionOutcome.DUPLICATE]

    async def test_the_same_request_after_its_result_is_a_replay_of_it(self, store: AdmissionStore) -> None:
        await store.admit([request(source="a/0/1")])
        await settle(store, settlement(answer="3/99"))
        [again] = await store.admit([request(source="a/0/2")])
        assert (again.outcome, again.answer) == (AdmissionOutcome.REPLAY, "3/99")

    async def test_a_request_id_with_another_body_is_reused(self, store: AdmissionStore) -> None:
        outcomes = await admit(store, request(fingerprint="f"), request(fingerprint="g", source="x/0/9"))
        assert outcomes[1] is AdmissionOutcome.REQUEST_ID_REUSED

    async def test_an_idempotency_key_with_another_body_is_a_mismatch_also_on_redelivery(
        self, store: AdmissionStore
    ) -> None:
        other = request("r-2", key="k", fingerprint="g")
        outcomes = await admit(store, request("r-1", key="k"), other, other)
        assert outcomes[1:] == [AdmissionOutcome.IDEMPOTENCY_MISMATCH] * 2

    async def test_a_key_in_flight_is_joined_and_its_settlement_names_the_followers_until_they_are_answered(
        self, store: AdmissionStore
    ) -> None:
        outcomes = await admit(store, request("r-1", key="k"), request("r-2", key="k", envelope=b"two"))
        assert outcomes[1] is AdmissionOutcome.JOINED
        first = await settle(store, settlement("r-1", key="k"))
        again = await settle(store, settlement("r-1", key="k"))
        assert first.followers == again.followers == (("r-2", b"two"),)
        await store.followers_answered([Answered("acme", "k", ("r-2",))])
        assert (await settle(store, settlement("r-1", key="k"))).followers == ()

    async def test_a_key_with_an_answer_is_replayed_to_a_new_request(self, store: AdmissionStore) -> None:
        await store.admit([request("r-1", key="k")])
        await settle(store, settlement("r-1", key="k", answer="1/5"))
        twice = await store.admit([request("r-2", key="k"), request("r-2", key="k")])
        assert [(a.outcome, a.answer, a.owner_request_id) for a in twice] == [
            (AdmissionOutcome.REPLAY, "1/5", "r-1")
        ] * 2

    async def test_a_failure_that_may_be_tried_again_frees_its_key(self, store: AdmissionStore) -> None:
        await store.admit([request("r-1", key="k")])
        await settle(store, settlement("r-1", key="k", replayable=False))
        assert await admit(store, request("r-2", key="k")) == [AdmissionOutcome.ADMITTED]

    async def test_a_freed_key_still_answers_those_who_joined(self, store: AdmissionStore) -> None:
        await store.admit([request("r-1", key="k"), request("r-2", key="k")])
        settled = await settle(store, settlement("r-1", key="k", replayable=False))
        assert [follower for follower, _ in settled.followers] == ["r-2"]
        await store.followers_answered([Answered("acme", "k", ("r-2",))])
        assert await admit(store, request("r-3", key="k")) == [AdmissionOutcome.ADMITTED]

    async def test_the_cap_on_undispatched_requests_is_exact_and_frees_on_dispatch(self, store: AdmissionStore) -> None:
        outcomes = await admit(store, *(request(f"r-{i}", cap=2) for i in range(3)))
        assert outcomes == [AdmissionOutcome.ADMITTED, AdmissionOutcome.ADMITTED, AdmissionOutcome.QUEUE_FULL]
        await store.dispatched([("acme", "r-0"), ("acme", "r-0")])
        assert await admit(store, request("r-4", cap=2), request("r-5", cap=2)) == [
            AdmissionOutcome.ADMITTED,
            AdmissionOutcome.QUEUE_FULL,
        ]

    async def test_a_full_queue_says_how_full_and_leaves_the_key_free(self, store: AdmissionStore) -> None:
        await store.admit([request("r-1", cap=1)])
        [refused] = await store.admit([request("r-2", key="k", cap=1)])
        assert refused.undispatched == 1
        await store.dispatched([("acme", "r-1")])
        assert await admit(store, request("r-3", key="k", cap=1)) == [AdmissionOutcome.ADMITTED]

    async def test_settling_releases_the_hold_and_books_the_cost_once(self, store: AdmissionStore) -> None:
        await store.admit([request(hold=100)])
        await store.dispatched([("acme", "r-1")])
        assert await settle(store, settlement(cost=40)) == Settled(True, 100, "r-1")
        assert await settle(store, settlement(cost=40)) == Settled(False, 0, "r-1")
        [usage] = await store.usage(["acme"])
        assert (usage.held_nano_usd, usage.spent_nano_usd, usage.undispatched, usage.in_flight) == (0, 40, 0, 0)

    async def test_a_request_that_ends_in_its_lane_frees_its_place(self, store: AdmissionStore) -> None:
        await store.admit([request(hold=0)])
        await settle(store, settlement(cost=0))
        [usage] = await store.usage(["acme"])
        assert (usage.held_nano_usd, usage.undispatched, usage.in_flight) == (0, 0, 0)

    async def test_a_late_dispatch_after_the_result_changes_nothing(self, store: AdmissionStore) -> None:
        await store.admit([request()])
        await settle(store, settlement())
        await store.dispatched([("acme", "r-1")])
        [usage] = await store.usage(["acme"])
        assert (usage.undispatched, usage.in_flight) == (0, 0)

    async def test_a_callers_rejection_claims_the_request_id_but_no_key(self, store: AdmissionStore) -> None:
        outcomes = await admit(
            store,
            request("r-1", key="k", fingerprint="bad", reject="schema_violation"),
            request("r-1", key="k", fingerprint="good", source="x/0/2"),
            request("r-2", key="k", fingerprint="good"),
        )
        assert outcomes == [
            AdmissionOutcome.REJECTED,
            AdmissionOutcome.REQUEST_ID_REUSED,
            AdmissionOutcome.ADMITTED,
        ]

    async def test_a_cost_of_an_unknown_request_is_booked_once(self, store: AdmissionStore) -> None:
        assert (await settle(store, settlement("lost", cost=7))).first
        assert not (await settle(store, settlement("lost", cost=7))).first
        [usage] = await store.usage(["acme"])
        assert usage.spent_nano_usd == 7

    async def test_amounts_beyond_a_double_stay_exact(self, store: AdmissionStore) -> None:
        big = 2**53 - 1
        await store.admit([request("r-1", hold=big), request("r-2", hold=big), request("r-3", hold=1)])
        [usage] = await store.usage(["acme"])
        assert usage.held_nano_usd == 2 * big + 1

    async def test_a_sum_beyond_what_the_store_can_count_stops_there_and_requests_are_still_settled_once(
        self, store: AdmissionStore
    ) -> None:
        await store.admit([request(hold=100)])
        await store.dispatched([("acme", "r-1")])
        await store.settle([settlement(f"forged-{number}", cost=2**53 - 1) for number in range(1024)])
        [usage] = await store.usage(["acme"])
        assert usage.spent_nano_usd == 1024 * (2**53 - 1)
        assert await settle(store, settlement(cost=2**53 - 1)) == Settled(True, 100, "r-1")
        assert await settle(store, settlement(cost=2**53 - 1)) == Settled(False, 0, "r-1")
        assert (await settle(store, settlement("one-more", cost=2**53 - 1))).first
        assert not (await settle(store, settlement("one-more", cost=2**53 - 1))).first
        assert await store.usage(["acme"]) == [TenantUsage(spent_nano_usd=2**63 - 1)]

    async def test_tenants_do_not_touch_each_other(self, store: AdmissionStore) -> None:
        outcomes = await admit(store, request(tenant="a", cap=1), request(tenant="b", cap=1))
        assert outcomes == [AdmissionOutcome.ADMITTED] * 2
        assert [usage.undispatched for usage in await store.usage(["a", "b", "c"])] == [1, 1, 0]

    async def test_a_result_that_does_not_tell_its_key_still_answers_those_who_joined_it(
        self, store: AdmissionStore
    ) -> None:
        await store.admit([request("r-1", key="k"), request("r-2", key="k", envelope=b"two")])
        settled = await settle(store, settlement("r-1", key="r-1", replayable=False))
        assert (settled.idempotency_key, settled.followers) == ("k", (("r-2", b"two"),))
        await store.followers_answered([Answered("acme", "k", ("r-2",))])
        assert await admit(store, request("r-3", key="k")) == [AdmissionOutcome.ADMITTED]

    async def test_ids_with_any_visible_character_stay_apart(self, store: AdmissionStore) -> None:
        tenants = ["a", "a}:r:x", "a}:i:x", "}", "{", "{}", "{a}", "a%7D:r:x", "a/b", "%", "%25"]
        ids = ["x", "x}:t", "x}:i:x", "b/x", "f:x", "{x}"]
        wanted = [
            request(rid, tenant=tenant, source=f"s/0/{number}", hold=1, cap=100)
            for number, (tenant, rid) in enumerate((tenant, rid) for tenant in tenants for rid in ids)
        ]
        assert set(await admit(store, *wanted)) == {AdmissionOutcome.ADMITTED}
        usage = await store.usage(tenants)
        assert [(each.undispatched, each.held_nano_usd) for each in usage] == [(len(ids), len(ids))] * len(tenants)
