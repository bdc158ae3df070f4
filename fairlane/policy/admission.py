"""Reference model of admission: idempotency, undispatched cap, holds and booked cost of a tenant.

The Redis scripts in ``adapters/lua`` do the same, one script call a method; a contract test runs
both on random traces. Standard library only; amounts are integer nano-dollars.
"""

from __future__ import annotations

from dataclasses import dataclass, field

QUEUED, DISPATCHED, JOINED, PENDING, ENDED = "q", "d", "j", "p", "x"
SPENT_MAX = 2**63 - 1
"""Where a tenant's booked cost stops: the largest integer of Redis. Only forged results come near, and a request
whose cost could not be added would keep its hold for ever."""


@dataclass(slots=True)
class Identity:
    """What is remembered of one request id."""

    state: str
    fingerprint: str | None = None
    source: str | None = None
    outcome: str | None = None
    hold: int | None = None
    answer: str = ""
    idempotency_key: str | None = None


@dataclass(slots=True)
class KeyState:
    """What is remembered of one idempotency key."""

    fingerprint: str
    owner: str
    answer: str = ""
    drop: bool = False
    followers: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class TenantFigures:
    """A tenant's running figures."""

    held: int = 0
    spent: int = 0
    undispatched: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What :meth:`TenantAdmission.admit` decided, with the figures behind it."""

    outcome: str
    undispatched: int = 0
    held: int = 0
    spent: int = 0
    answer: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Booked:
    """What :meth:`TenantAdmission.settle` did."""

    first: bool
    released: int = 0
    idempotency_key: str = ""
    followers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class TenantAdmission:
    """The state of one tenant. Each method is one atomic step and idempotent."""

    identities: dict[str, Identity] = field(default_factory=dict)
    keys: dict[str, KeyState] = field(default_factory=dict)
    figures: TenantFigures = field(default_factory=TenantFigures)

    def admit(
        self,
        *,
        request_id: str,
        idempotency_key: str,
        fingerprint: str,
        source: str,
        hold: int,
        max_undispatched: int,
        reject_code: str = "",
        envelope: bytes = b"",
    ) -> Verdict:
        """Decide a request. The same source gets the same outcome again; nothing is charged twice."""
        figures = self.figures
        known = self.identities.get(request_id)
        if known is not None:
            return self._known(known, request_id, idempotency_key, fingerprint, source)

        def remember(outcome: str, state: str, *, held: int | None = None, answer: str = "") -> None:
            self.identities[request_id] = Identity(state, fingerprint, source, outcome, held, answer, idempotency_key)

        if reject_code:
            remember("rejected", PENDING)
            return Verdict("rejected")
        key = self.keys.get(idempotency_key)
        if key is not None:
            if key.fingerprint != fingerprint:
                remember("idempotency_mismatch", PENDING)
                return Verdict("idempotency_mismatch", owner=key.owner)
            if key.answer:
                remember("replay", PENDING, answer=key.answer)
                return Verdict("replay", answer=key.answer, owner=key.owner)
            key.followers[request_id] = envelope
            remember("joined", JOINED)
            return Verdict("joined", owner=key.owner)
        if figures.undispatched >= max_undispatched:
            remember("queue_full", PENDING)
            return Verdict("queue_full", figures.undispatched, figures.held, figures.spent)
        figures.held += hold
        figures.undispatched += 1
        remember("admitted", QUEUED, held=hold)
        self.keys[idempotency_key] = KeyState(fingerprint, request_id)
        return Verdict("admitted", figures.undispatched, figures.held, figures.spent)

    def _known(self, known: Identity, request_id: str, key: str, fingerprint: str, source: str) -> Verdict:
        if known.fingerprint is not None and known.fingerprint != fingerprint:
            return Verdict("request_id_reused")
        if known.source != source:
            if known.answer:
                return Verdict("replay", answer=known.answer, owner=request_id)
            return Verdict("duplicate")
        if (known.outcome == "admitted" and known.state != QUEUED) or (
            known.outcome == "joined" and known.state == ENDED
        ):
            return Verdict("duplicate")
        owner = self.keys[key].owner if key in self.keys else ""
        figures = self.figures
        return Verdict(str(known.outcome), figures.undispatched, figures.held, figures.spent, known.answer, owner)

    def dispatched(self, request_id: str) -> bool:
        """The request left its lane."""
        known = self.identities.get(request_id)
        if known is None or known.state != QUEUED:
            return False
        known.state = DISPATCHED
        self.figures.undispatched -= 1
        self.figures.in_flight += 1
        return True

    def settle(
        self,
        *,
        request_id: str,
        idempotency_key: str,
        cost: int,
        answer: str,
        replayable: bool,
        fingerprint: str = "",
        source: str = "",
        outcome: str = "",
        admitted: bool = False,
    ) -> Booked:
        """Book a terminal result: release the hold, add the cost, keep where the answer is.

        The idempotency key the request was admitted with counts before the one given. What is said from
        ``fingerprint`` on counts where the request is not known (any more).
        """
        known = self.identities.get(request_id)
        if known is None and fingerprint:
            known = self.identities[request_id] = Identity(
                PENDING, fingerprint, source, outcome, idempotency_key=idempotency_key
            )
            if admitted and replayable:
                self.keys.setdefault(idempotency_key, KeyState(fingerprint, request_id))
        if known is not None and known.idempotency_key is not None:
            idempotency_key = known.idempotency_key
        first = known is None or known.state != ENDED
        released = 0
        if first:
            if known is not None and known.state in (QUEUED, DISPATCHED):
                released = known.hold or 0
                self.figures.held -= released
                if known.state == QUEUED:
                    self.figures.undispatched -= 1
                else:
                    self.figures.in_flight -= 1
            self.figures.spent = min(self.figures.spent + cost, SPENT_MAX)
            if known is not None or cost:
                known = self.identities.setdefault(request_id, Identity(ENDED))
                known.state, known.answer, known.hold = ENDED, answer, None
        key = self.keys.get(idempotency_key)
        followers: tuple[tuple[str, bytes], ...] = ()
        if key is not None:
            # It may be a follower itself: then this is its answer.
            key.followers.pop(request_id, None)
        if key is not None and key.owner == request_id:
            followers = tuple(key.followers.items())
            if replayable:
                key.answer = key.answer or answer
            elif followers:
                key.answer, key.drop = answer, True
            else:
                del self.keys[idempotency_key]
        return Booked(first, released, idempotency_key, followers)

    def followers_answered(self, idempotency_key: str, followers: tuple[str, ...]) -> None:
        """Forget followers whose results are in the log."""
        key = self.keys.get(idempotency_key)
        if key is None:
            return
        for follower in followers:
            key.followers.pop(follower, None)
        if key.drop and not key.followers:
            del self.keys[idempotency_key]

    def restore_waiting(
        self, *, request_id: str, idempotency_key: str, fingerprint: str, source: str, hold: int, dispatched: bool
    ) -> None:
        """The log has this request in its lane, or bound to a slot."""
        if request_id not in self.identities:
            self.identities[request_id] = Identity(
                QUEUED, fingerprint, source, "admitted", hold, idempotency_key=idempotency_key
            )
            self.figures.held += hold
            self.figures.undispatched += 1
            self.keys.setdefault(idempotency_key, KeyState(fingerprint, request_id))
        if dispatched:
            self.dispatched(request_id)

    def restore_joined(
        self, *, request_id: str, idempotency_key: str, fingerprint: str, source: str, owner: str, envelope: bytes
    ) -> None:
        """The log says that this request waits for another's answer, and has no result of it yet."""
        if request_id in self.identities:
            return
        self.identities[request_id] = Identity(JOINED, fingerprint, source, "joined", idempotency_key=idempotency_key)
        self.keys.setdefault(idempotency_key, KeyState(fingerprint, owner)).followers[request_id] = envelope
