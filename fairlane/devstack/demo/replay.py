"""Sends the planned requests at their times, whatever becomes of them (an open loop)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from fairlane.clock import Clock
from fairlane.devstack.demo.facts import Key
from fairlane.devstack.demo.workload import PlannedRequest
from fairlane.errors import Retry
from fairlane.ports import Outgoing, Publisher, Record
from fairlane.schemas.topics import request_key

_NAP_S = 0.002
"""Closer to its time than this a request is sent at once: a shorter sleep costs more than it gains."""


class Replay:
    """One run of the plan. What is sent does not depend on answers, as in the trace it comes from."""

    def __init__(self, publisher: Publisher, topic: str, plan: Sequence[PlannedRequest], clock: Clock) -> None:
        self._publisher = publisher
        self._topic = topic
        self._plan = plan
        self._clock = clock
        self._pending: set[asyncio.Future[Record]] = set()
        self._broken: BaseException | None = None
        self.asked: Counter[str] = Counter()
        """Requests handed to the producer so far, by tenant."""
        self.sent: list[Key] = []
        """Requests Kafka acknowledged."""
        self.unsure: set[Key] = set()
        """Requests without an acknowledgement: they may be in the log or not."""
        self.started_ms = 0
        self.latest_s = 0.0
        """How much later than planned a request was sent at worst."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Send all, or stop early when told to; returns when every acknowledgement is in.

        Raises Poison if a request can never be sent.
        """
        self.started_ms = self._clock.now_ms()
        began = self._clock.monotonic()
        for request in self._plan:
            early_s = began + request.at_s - self._clock.monotonic()
            if early_s > _NAP_S:
                await asyncio.sleep(early_s)
            if stopping.is_set() or self._broken is not None:
                break
            self.latest_s = max(self.latest_s, self._clock.monotonic() - began - request.at_s)
            self._send(request)
        while self._pending:
            await asyncio.wait(self._pending)
        if self._broken is not None:
            raise self._broken

    def _send(self, request: PlannedRequest) -> None:
        key = (request.tenant.tenant_id, request.request_id)
        self.asked[key[0]] += 1
        future = self._publisher.send(Outgoing(self._topic, request_key(*key), request.value()))
        self._pending.add(future)
        future.add_done_callback(lambda done: self._acknowledged(key, done))

    def _acknowledged(self, key: Key, done: asyncio.Future[Record]) -> None:
        self._pending.discard(done)
        failure = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(failure, Retry):
            self.unsure.add(key)
        elif failure is not None:
            self._broken = failure
        else:
            self.sent.append(key)
