"""Which partition of a lanes topic takes a tenant's next record: the emptiest of the tenant's hand.

Shuffle sharding: each tenant has a hand of k partitions by rendezvous hashing, so a flood fills at
most its own hand and hardly ever all of another's (Kubernetes API priority and fairness,
https://kubernetes.io/docs/concepts/cluster-administration/flow-control/; rendezvous hashing:
Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998). Standard library only.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

HAND = 4
HANDS_MAX = 50_000
_HALVE_AT = 4_096


def hand(tenant_id: str, partitions: int, size: int = HAND) -> tuple[int, ...]:
    """The tenant's partitions: those with the highest hash of tenant and partition."""

    def weight(partition: int) -> bytes:
        return blake2b(f"{partition}/{tenant_id}".encode(), digest_size=8).digest()

    return tuple(sorted(range(partitions), key=weight, reverse=True)[:size])


class LanePlacer:
    """Chooses partitions of one topic. Load is what this process placed lately, halved now and then."""

    def __init__(self, partitions: int) -> None:
        self._load = [0] * partitions
        self._placed = 0
        self._hands: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def place(self, tenant_id: str) -> int:
        """The partition for the tenant's next record."""
        choices = self._hands.get(tenant_id)
        if choices is None:
            choices = self._hands[tenant_id] = hand(tenant_id, len(self._load))
            if len(self._hands) > HANDS_MAX:
                self._hands.popitem(last=False)
        partition = min(choices, key=self._load.__getitem__)
        self._load[partition] += 1
        self._placed += 1
        if self._placed >= _HALVE_AT:
            self._load = [load // 2 for load in self._load]
            self._placed = 0
        return partition
