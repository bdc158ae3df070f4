"""The lease counts from a heartbeat that was sent and granted, on any coordinator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.group import HeartbeatRequest, LeaveGroupRequest, SyncGroupRequest

from fairlane.streams import lease as module
from fairlane.streams.lease import LEASE_SHARE, Lease

SESSION_MS = 10_000
REBALANCING = 27


class Coordinator:
    """Answers with an error code after some time on the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.error_code, self.takes_s = 0, 0.0

    async def _send_req(self, _request: Any) -> Any:
        self.clock.now += self.takes_s
        return SimpleNamespace(error_code=self.error_code)

    async def send(self, kind: Any) -> None:
        """As the coordinator itself would."""
        await self._send_req(kind.__new__(kind))


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Its time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def coordinator(clock: Clock) -> Coordinator:
    return Coordinator(clock)


@pytest.fixture
def lease(coordinator: Coordinator) -> Lease:
    lease = Lease(SESSION_MS)
    lease.listen(coordinator)
    return lease


async def test_a_heartbeat_that_is_refused_grants_nothing(coordinator: Coordinator, lease: Lease) -> None:
    coordinator.error_code = REBALANCING
    await coordinator.send(HeartbeatRequest)
    assert not lease.ok()
    coordinator.error_code = 0
    await coordinator.send(HeartbeatRequest)
    assert lease.ok()


async def test_the_lease_counts_from_when_the_heartbeat_was_sent_and_not_from_its_answer(
    coordinator: Coordinator, lease: Lease, clock: Clock
) -> None:
    coordinator.takes_s = 3.0
    await coordinator.send(HeartbeatRequest)
    clock.now += SESSION_MS / 1000 * LEASE_SHARE - 3.0 - 0.01
    assert lease.ok()
    clock.now += 0.02
    assert not lease.ok()


async def test_joining_grants_the_lease_and_leaving_does_not(coordinator: Coordinator, lease: Lease) -> None:
    await coordinator.send(LeaveGroupRequest)
    assert not lease.ok()
    await coordinator.send(SyncGroupRequest)
    assert lease.ok()
