"""Fair queueing by weighted virtual token counters, with priority bands and length prediction.

The Virtual Token Counter scheduler of Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024 (https://arxiv.org/abs/2401.00588), section 4, with its weighted variant and length
prediction: a tenant's counter is the service it got, in cost units divided by its weight; the
waiting tenant with the least counter goes next. The estimate is charged at dispatch and corrected
by the result. A tenant that returns is lifted to the least counter of those waiting, and never
lowered, so idle time earns no credit and debts stay.

Bound: two tenants that both keep waiting differ in normalised service by at most 2E/min(w), E being
the cost of the largest request, plus the estimate errors of what was in flight when each was dispatched
or lifted, also the last time before both waited (derived in ``devstack/simulation/fairness.py``).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2
"""Cost of a token: w_p = 1 and w_q = 2, the price ratio the paper uses (section 3.1)."""

PREDICTION_KEEP = 0.8
"""Moving average of output lengths: 4/5 old, 1/5 new, the paper's window of five (section 4.3)."""

FIRST_PREDICTION = 128
WEIGHT_MIN = 0.001
COST_MAX = 1e8
"""Cost units of one request, several times what the largest context windows hold (10 million tokens). More than that
somebody made up, and would take one request to where a counter has no room for the next."""
USAGE_SPARE = 2_000_000
"""So many units above what a request may cost by its own figures a provider may say it did: as long as the longest
context of the hosted models (Gemini 1.5 Pro, 2 million tokens), for media given by reference may fill one. A provider
that is wrong by more must not shut the tenant out."""
COUNTER_MAX = 1e15
"""A double still tells one unit from two there. Far beyond it charges are lost in rounding, and an infinite counter,
from a forged snapshot, could not even be written any more."""
REBASE_AT = 1e12
"""Only differences of counters mean anything: where all of them stand above it, it is taken from all."""
PREDICTIONS_MAX = 20_000
GONE_SPARE = 100
DEADLINES_SPARE = 1_000
"""Places in a lane, and deadlines, kept of requests that are gone, besides as many as wait: they leave when they come
to the head, and one that waits long at the head would keep all behind it, with their records."""
BANDS = ("critical", "high", "normal", "low", "batch")


def service_cost(input_tokens: int, output_tokens: float) -> float:
    """Cost units of a request: w_p * input + w_q * output."""
    return INPUT_WEIGHT * input_tokens + OUTPUT_WEIGHT * output_tokens


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in its lane. ``key`` identifies the request; ``payload`` is the caller's."""

    key: bytes
    tenant_id: str
    band: str
    model: str
    input_tokens: int
    output_limit: int
    arrived_ms: int
    deadline_ms: int | None
    payload: object
    own_ahead: int = 0
    picks_at_arrival: int = 0
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """What was charged for a dispatched request, to be settled once against its usage, up to ``units_max``."""

    tenant_id: str
    model: str
    units: float
    units_max: float
    output_limit: int


@dataclass(frozen=True, slots=True)
class Pick:
    """The request that goes next, what it was charged, and why it waited."""

    waiting: Waiting
    charge: Charge
    counter: float
    own_before: int
    others_before: int


@dataclass(slots=True)
class _Lane:
    """``waiting`` of the queue are not gone, among them its head."""

    tenant_id: str
    queue: deque[Waiting] = field(default_factory=deque)
    waiting: int = 0
    version: int = 0

    def drop_gone(self) -> None:
        while self.queue and self.queue[0].gone:
            self.queue.popleft()
        if len(self.queue) > 2 * self.waiting + GONE_SPARE:
            self.queue = deque(waiting for waiting in self.queue if not waiting.gone)


class FairQueue:
    """All lanes of one pool. Every method is O(log n) amortised."""

    def __init__(self) -> None:
        self._lanes: dict[str, dict[str, _Lane]] = {band: {} for band in BANDS}
        self._heaps: dict[str, list[tuple[float, int, str, int]]] = {band: [] for band in BANDS}
        self._deadlines: list[tuple[int, int, Waiting]] = []
        self._by_key: dict[bytes, Waiting] = {}
        self._waiting_of: dict[str, int] = {}
        self._counters: dict[str, float] = {}
        self._unsettled: dict[str, int] = {}
        self._weights: Mapping[str, float] = {}
        self._predicted: OrderedDict[str, float] = OrderedDict()
        self._restored: set[str] = set()
        self._lifted: dict[str, float] = {}
        self._restored_ms = 0
        self._floor = 0.0
        self._picks = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Weights by tenant; one not named has weight 1, and below :data:`WEIGHT_MIN` it is that. Counts from the next
        charge on.
        """
        self._weights = {tenant: max(weight, WEIGHT_MIN) for tenant, weight in weights.items()}

    def waiting(self, tenant_id: str) -> int:
        """Requests of a tenant in all bands."""
        return self._waiting_of.get(tenant_id, 0)

    def waiting_by_tenant(self) -> dict[str, int]:
        """Requests waiting, for tenants that have any."""
        return dict(self._waiting_of)

    def counter(self, tenant_id: str) -> float:
        """Normalised service of a tenant."""
        return self._counters.get(tenant_id, 0.0)

    def get(self, key: bytes) -> Waiting | None:
        """The waiting request of that key."""
        return self._by_key.get(key)

    def all_waiting(self) -> list[Waiting]:
        """Every waiting request, in order of arrival here."""
        return list(self._by_key.values())

    def push(self, waiting: Waiting) -> None:
        """Put a request at the end of its tenant's lane, lifting the tenant if it had none waiting.

        After :meth:`restore` who waits comes in the order of the log, and the first of them is no measure for the
        others: a tenant whose request is older than the snapshot was waiting then, so it stands where it stood.
        """
        tenant, waited_then = waiting.tenant_id, waiting.arrived_ms <= self._restored_ms
        if waited_then and tenant in self._lifted:
            # A newer request of it was read first, from another partition.
            self._charge(tenant, -self._lifted.pop(tenant) * self._weights.get(tenant, 1.0))
        elif self.waiting(tenant) == 0:
            if tenant not in self._restored or not waited_then:
                # One without a counter was forgotten because it stood no higher than the least of those who waited.
                stood = self._counters.get(tenant, lift := self._lift_to())
                self._counters[tenant] = max(stood, lift)
                if tenant in self._restored or tenant in self._lifted:
                    self._lifted[tenant] = self._lifted.get(tenant, 0.0) + self._counters[tenant] - stood
            self._restored.discard(tenant)
        lane = self._lanes[waiting.band].setdefault(tenant, _Lane(tenant))
        waiting.own_ahead = lane.waiting
        waiting.picks_at_arrival = self._picks
        lane.queue.append(waiting)
        lane.waiting += 1
        self._by_key[waiting.key] = waiting
        self._waiting_of[tenant] = self.waiting(tenant) + 1
        if waiting.deadline_ms is not None:
            self._sequence += 1
            heapq.heappush(self._deadlines, (waiting.deadline_ms, self._sequence, waiting))
            if len(self._deadlines) > 2 * len(self._by_key) + DEADLINES_SPARE:
                self._deadlines = [each for each in self._deadlines if not each[2].gone]
                heapq.heapify(self._deadlines)
        if lane.waiting == 1:
            self._offer(waiting.band, lane)

    def pick(self) -> Pick | None:
        """Take the next request: the first band with work, in it the tenant with the least counter.

        Charges the estimate at once. None if nothing waits.
        """
        for band in BANDS:
            lane = self._best(band)
            if lane is not None:
                return self._take(band, lane)
        return None

    def _take(self, band: str, lane: _Lane) -> Pick:
        if self.counter(lane.tenant_id) > REBASE_AT:
            self._rebase(self._lift_to())
        waiting = lane.queue[0]
        before = self._picks - waiting.picks_at_arrival
        self._picks += 1
        self._leave(waiting, lane)
        predicted = self.predicted_output(lane.tenant_id, waiting.model, waiting.output_limit)
        units = min(service_cost(waiting.input_tokens, predicted), COST_MAX)
        may_cost = service_cost(waiting.input_tokens, waiting.output_limit)
        self._charge(lane.tenant_id, units)
        self._unsettled[lane.tenant_id] = self._unsettled.get(lane.tenant_id, 0) + 1
        self._keep_floor(lane.tenant_id)
        own = min(waiting.own_ahead, before)
        return Pick(
            waiting,
            Charge(
                lane.tenant_id,
                waiting.model,
                units,
                units_max=min(may_cost + USAGE_SPARE, COST_MAX),
                output_limit=waiting.output_limit,
            ),
            self.counter(lane.tenant_id),
            own_before=own,
            others_before=before - own,
        )

    def settle(self, charge: Charge, input_tokens: int, output_tokens: int) -> None:
        """Correct a charge by what the request really used; call once per charge."""
        name = f"{charge.tenant_id}\0{charge.model}"
        old, length = self._predicted.pop(name, None), min(output_tokens, charge.output_limit)
        mean = length if old is None else PREDICTION_KEEP * old + (1 - PREDICTION_KEEP) * length
        self._predicted[name] = mean
        if len(self._predicted) > PREDICTIONS_MAX:
            self._predicted.popitem(last=False)
        self._correct(charge, min(service_cost(input_tokens, output_tokens), charge.units_max) - charge.units)

    def refund(self, charge: Charge) -> None:
        """Take a charge back: the request got no service."""
        self._correct(charge, -charge.units)

    def predicted_output(self, tenant_id: str, model: str, limit: int) -> float:
        """Expected output tokens of the tenant on the model, at most the request's own limit."""
        return min(self._predicted.get(f"{tenant_id}\0{model}", FIRST_PREDICTION), limit)

    def remove(self, key: bytes) -> Waiting | None:
        """Take a request out of its lane, for example because it was cancelled."""
        waiting = self._by_key.get(key)
        if waiting is None:
            return None
        lane = self._lanes[waiting.band][waiting.tenant_id]
        if self._leave(waiting, lane):
            self._offer(waiting.band, lane)
        else:
            self._keep_floor(waiting.tenant_id)
        return waiting

    def expire(self, now_ms: int) -> Iterator[Waiting]:
        """Take out every request whose deadline has passed."""
        while self._deadlines and (self._deadlines[0][0] <= now_ms or self._deadlines[0][2].gone):
            _, _, waiting = heapq.heappop(self._deadlines)
            if not waiting.gone:
                self.remove(waiting.key)
                yield waiting

    def snapshot(self) -> tuple[dict[str, float], float, dict[str, float]]:
        """Counters that differ from the floor's effect, the floor, and predictions.

        A lift that may have to be taken back is not in it: the next owner reads the lanes anew, in another order.
        """
        floor = self._lift_to()
        kept = {
            tenant: counter - self._lifted.get(tenant, 0.0)
            for tenant, counter in self._counters.items()
            if counter > floor or self.waiting(tenant) or tenant in self._restored or tenant in self._lifted
        }
        return kept, floor, dict(self._predicted)

    def restore(self, counters: Mapping[str, float], floor: float, predicted: Mapping[str, float], at_ms: int) -> None:
        """Go on from a snapshot of that time; call before anything waits, and :meth:`returned` once that has come."""
        self._counters = {tenant: min(max(c, -COUNTER_MAX), COUNTER_MAX) for tenant, c in counters.items()}
        self._restored, self._restored_ms = set(counters), at_ms
        self._floor = min(max(floor, -COUNTER_MAX), COUNTER_MAX)
        self._predicted = OrderedDict((name, max(0.0, tokens)) for name, tokens in predicted.items())

    def returned(self) -> None:
        """Whoever waited at the time of the snapshot is here again or does not come back."""
        if not self._restored and not self._lifted:
            return
        self._restored.clear()
        self._lifted.clear()
        for tenant in [tenant for tenant in self._counters if tenant not in self._unsettled]:
            self._forget_if_level(tenant)

    def _charge(self, tenant_id: str, units: float) -> None:
        counter = self.counter(tenant_id) + units / self._weights.get(tenant_id, 1.0)
        self._counters[tenant_id] = min(max(counter, -COUNTER_MAX), COUNTER_MAX)
        for band in BANDS if self.waiting(tenant_id) else ():
            lane = self._lanes[band].get(tenant_id)
            if lane is not None:
                self._offer(band, lane)

    def _rebase(self, by: float) -> None:
        if by <= REBASE_AT:
            return
        self._floor -= by
        self._counters = {tenant: counter - by for tenant, counter in self._counters.items()}
        for heap in self._heaps.values():
            heap[:] = [(counter - by, arrived_ms, tenant, version) for counter, arrived_ms, tenant, version in heap]
            heapq.heapify(heap)

    def _correct(self, charge: Charge, units: float) -> None:
        tenant = charge.tenant_id
        self._charge(tenant, units)
        left = self._unsettled.get(tenant, 0) - 1
        if left > 0:
            # What is in flight will be corrected as well, and a correction means nothing without its charge.
            self._unsettled[tenant] = left
            return
        self._unsettled.pop(tenant, None)
        self._forget_if_level(tenant)

    def _forget_if_level(self, tenant: str) -> None:
        """A return would lift it to the same value anyway; not so while somebody lower may still return."""
        if self._restored or self._lifted:
            return
        if not self.waiting(tenant) and self.counter(tenant) <= self._lift_to():
            self._counters.pop(tenant, None)

    def _keep_floor(self, tenant_id: str) -> None:
        if not self._by_key:
            self._floor = self.counter(tenant_id)

    def _offer(self, band: str, lane: _Lane) -> None:
        self._sequence += 1
        lane.version = self._sequence
        heap = self._heaps[band]
        head = lane.queue[0]
        heapq.heappush(heap, (self.counter(lane.tenant_id), head.arrived_ms, lane.tenant_id, lane.version))
        lanes = self._lanes[band]
        if len(heap) > 64 + 4 * len(lanes):
            heap[:] = [entry for entry in heap if self._live(band, entry)]
            heapq.heapify(heap)

    def _live(self, band: str, entry: tuple[float, int, str, int]) -> bool:
        lane = self._lanes[band].get(entry[2])
        return lane is not None and lane.version == entry[3]

    def _best(self, band: str) -> _Lane | None:
        heap, lanes = self._heaps[band], self._lanes[band]
        while heap:
            _, _, tenant_id, version = heap[0]
            lane = lanes.get(tenant_id)
            if lane is not None and lane.version == version:
                return lane
            heapq.heappop(heap)
        return None

    def _lift_to(self) -> float:
        """The least counter of those waiting, or where the last one that waited left."""
        if not self._by_key:
            return self._floor
        return min(self.counter(lane.tenant_id) for band in BANDS if (lane := self._best(band)) is not None)

    def _leave(self, waiting: Waiting, lane: _Lane) -> bool:
        """Whether others wait in the lane."""
        waiting.gone = True
        lane.waiting -= 1
        lane.drop_gone()
        if not lane.waiting:
            del self._lanes[waiting.band][waiting.tenant_id]
        del self._by_key[waiting.key]
        left = self._waiting_of[waiting.tenant_id] - 1
        if left:
            self._waiting_of[waiting.tenant_id] = left
        else:
            del self._waiting_of[waiting.tenant_id]
        return lane.waiting > 0
