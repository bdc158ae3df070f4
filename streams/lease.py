"""How long a member of a consumer group may trust that nobody else owns its partitions."""

# ruff: noqa: SLF001 - aiokafka offers no seam here, and it is pinned to one version.

from __future__ import annotations

import time
from typing import Any

from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest

LEASE_SHARE = 0.8
"""Share of the session timeout for which a heartbeat counts; the rest is time for a write under way."""


class Lease:
    """Time since the coordinator last answered a heartbeat, on the monotonic clock: it goes on while the process
    is stopped, so a process that wakes up after its session has none.

    It touches the coordinator's requests; aiokafka is pinned.
    """

    def __init__(self, session_timeout_ms: int) -> None:
        self._valid_s = session_timeout_ms / 1000 * LEASE_SHARE
        self.heard: float | None = None
        """When the last heartbeat that was answered had been sent, in monotonic seconds."""

    def listen(self, coordinator: Any) -> None:
        """Note the heartbeats of a coordinator that has not joined yet."""
        send = coordinator._send_req

        async def send_and_note(request: Any) -> Any:
            sent = time.monotonic()
            response = await send(request)
            # A heartbeat answered with "rebalancing" does not count: the rebalance has a timeout of its own.
            if isinstance(request, HeartbeatRequest | SyncGroupRequest) and response.error_code == 0:
                self.heard = sent
            return response

        coordinator._send_req = send_and_note

    def ok(self) -> bool:
        """Whether the session cannot have ended yet."""
        return self.heard is not None and time.monotonic() - self.heard < self._valid_s
