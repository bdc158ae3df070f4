"""The load: good requests of five tenants in an open loop, among bad, repeated, cancelled and crowded ones."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.ports import Outgoing, Record
from tests.chaos.stack_config import CROWDED, MAIN_MODEL, SLOW_MODEL, WEIGHTS

KINDS = {
    "good": 80, "streamed": 5, "repeated": 2, "same_key": 1, "reused_id": 1, "not_json": 2, "bad_field": 2,
    "unknown_model": 1, "unknown_tenant": 1, "no_ids": 1, "cancelled": 2, "crowded": 2,
}  # fmt: skip
"""How many of a hundred are of each kind. ``cancelled`` and ``crowded`` ask the slow pool: the one is cancelled a
moment later, unless it is at a worker by then; the other is of a tenant that may have only few waiting."""
CANCEL_AFTER_S = 0.5
PARTITIONS = 8
MAX_TOKENS = 24
SLOW_TOKENS = 8
BUFFER_BYTES = 256 * 2**20
ACK_TIMEOUT_MS = 120_000
"""Above every outage: what is not acknowledged by then was not sent."""


@dataclass(slots=True)
class Sent:
    """One record produced. ``due_s`` is seconds since the epoch; ``place`` is empty until it is acknowledged."""

    kind: str
    tenant: str
    request_id: str
    due_s: float
    place: str = ""

    @property
    def key(self) -> str:
        """``tenant/request``."""
        return f"{self.tenant}/{self.request_id}"

    @property
    def fresh(self) -> bool:
        """Whether it is a good request that is to be called and answered."""
        return self.kind in ("good", "streamed")

    @property
    def slow(self) -> bool:
        """Whether it asks the slow pool, and ends in one way or another."""
        return self.kind in ("cancelled", "crowded")


def partition_of(sent: Sent, number: int) -> int:
    """Where the record with this number goes.

    One that reuses an id follows the request that has it: elsewhere it could overtake it, when the gate of that
    partition is stopped, and the good one would be refused in its place, rightly.
    """
    return (int(sent.request_id.rpartition("-")[2]) if sent.kind == "reused_id" else number) % PARTITIONS


class Load:
    """Sends ``rate`` records a second from :meth:`start` to :meth:`stop`, whatever becomes of them.

    ``prefix`` is that of the topics. ``run`` begins every request id. ``kinds`` is as :data:`KINDS`.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        run: str,
        rate: float,
        *,
        model: str = MAIN_MODEL,
        kinds: dict[str, int] | None = None,
        tenants: Sequence[str] = tuple(WEIGHTS),
        seed: int = 1,
    ) -> None:
        self._publisher = KafkaPublisher(
            bootstrap, "chaos-load", buffer_bytes=BUFFER_BYTES, delivery_timeout_ms=ACK_TIMEOUT_MS
        )
        self._topic, self._commands = prefix + "requests", prefix + "commands"
        self.run, self.rate, self._model = run, rate, model
        kinds = KINDS if kinds is None else kinds
        self._kinds = [kind for kind, count in kinds.items() for _ in range(count)]
        self._tenants = tenants
        self._random = random.Random(f"{seed}/{run}")
        self._task: asyncio.Task[None] | None = None
        self._documents: list[dict[str, Any]] = []
        self._to_cancel: deque[Sent] = deque()
        self.sent: list[Sent] = []

    async def start(self) -> None:
        """Connect and begin."""
        await self._publisher.start()
        for topic in (self._topic, self._commands):
            await self._publisher.partitions(topic)
        self._task = asyncio.create_task(self._send(), name=f"load {self.run}")

    async def stop(self) -> None:
        """Send no more and wait for the acknowledgements, whether :meth:`start` came to its end or not.

        Raises what ended the load before its time.
        """
        ended: object = None
        if self._task is not None:
            self._task.cancel()
            ended = (await asyncio.gather(self._task, return_exceptions=True))[0]
            self._task = None
        try:
            async with asyncio.timeout(ACK_TIMEOUT_MS / 1000):
                await self._publisher.flush()
        finally:
            await self._publisher.stop()
        if isinstance(ended, Exception):
            raise ended

    async def _send(self) -> None:
        began, number = time.time(), 0
        while True:
            due = began + number / self.rate
            if (wait := due - time.time()) > 0:
                await asyncio.sleep(wait)
            kind = self._random.choice(self._kinds)
            sent, value = self._record(kind, number, due)
            self.sent.append(sent)
            ack = self._publisher.send(Outgoing(self._topic, None, value, (), partition_of(sent, number)))
            ack.add_done_callback(lambda done, sent=sent: self._acknowledged(done, sent))  # type: ignore[misc]
            if kind == "cancelled":
                self._to_cancel.append(sent)
            while self._to_cancel and self._to_cancel[0].due_s + CANCEL_AFTER_S <= due:
                self._cancel(self._to_cancel.popleft())
            number += 1

    def _cancel(self, sent: Sent) -> None:
        command = {
            "schema": "fairlane.command.v1", "command": "cancel", "tenant_id": sent.tenant,
            "request_id": sent.request_id,
        }  # fmt: skip
        ack = self._publisher.send(Outgoing(self._commands, sent.key.encode(), json.dumps(command).encode(), ()))
        # One that fails cancels nothing: its request ends in another way, which is as good.
        ack.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _acknowledged(self, ack: asyncio.Future[Record], sent: Sent) -> None:
        if not ack.cancelled() and ack.exception() is None:
            record = ack.result()
            sent.place = f"{record.topic}/{record.partition}/{record.offset}"

    def _record(self, kind: str, number: int, due: float) -> tuple[Sent, bytes]:
        name = f"{self.run}-{number}"
        if kind in ("repeated", "same_key", "reused_id") and not self._documents:
            kind = "good"
        tenant = self._tenants[number % len(self._tenants)]
        document = self._good(tenant, name)
        match kind:
            case "streamed":
                document["stream"] = True
            case "repeated" | "reused_id":
                document = json.loads(json.dumps(self._random.choice(self._documents[-200:])))
                if kind == "reused_id":
                    document["body"]["messages"][0]["content"] += " otherwise"
            case "same_key":
                earlier = self._random.choice(self._documents[-200:])
                document = {**earlier, "request_id": name, "idempotency_key": earlier["request_id"]}
            case "not_json":
                return Sent(kind, "", "", due), b'{"schema": "fairlane.request.v1", "request_id": "' + name.encode()
            case "no_ids":
                del document["request_id"]
                return Sent(kind, "", "", due), json.dumps(document).encode()
            case "bad_field":
                document["body"]["max_tokens"] = -1
            case "unknown_model":
                document["body"]["model"] = "nothing"
            case "unknown_tenant":
                document["tenant_id"] = "nobody"
            case "cancelled" | "crowded":
                document["body"] |= {"model": SLOW_MODEL, "max_tokens": SLOW_TOKENS}
                if kind == "crowded":
                    document["tenant_id"] = CROWDED
        if kind in ("good", "streamed"):
            self._documents.append(document)
        return Sent(kind, document["tenant_id"], document["request_id"], due), json.dumps(document).encode()

    def _good(self, tenant: str, name: str) -> dict[str, Any]:
        words = " ".join(self._random.choices(("fair", "lanes", "keep", "queues", "moving"), k=12))
        return {
            "schema": "fairlane.request.v1",
            "request_id": name,
            "tenant_id": tenant,
            "body": {
                "model": self._model,
                "max_tokens": self._random.randint(8, MAX_TOKENS),
                "messages": [{"role": "user", "content": f"{name} {words}"}],
            },
        }
