"""One case of load as a process of its own: ``python -m benchmarks.load ORDER.json OUT.json``.

The schedule is fixed before the first request: a slow system does not slow it down, and every latency
counts from the moment at which its request was due, not from when it could be sent (else the requests
that a stall held back would be missing: "coordinated omission"). Results are read by a plain consumer
in the same process, so one clock measures both ends.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.cases import FLOODER, Case, RequestTemplate, tenant_name
from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.ports import Outgoing, Record

LEAD_S = 0.3
"""Between the last preparation and the first request."""
STALL_S = 15.0
"""No answer for so long: the rest is taken for lost."""
PERCENTS = (*range(0, 100, 2), 95, 99, 99.5, 99.9, 100)


@dataclass(frozen=True, slots=True)
class Order:
    """What to do and where. ``run`` begins every request id."""

    kafka: str
    topic_prefix: str
    run: str
    case: Case


def percentiles(values: Sequence[float], percents: Sequence[float] = PERCENTS) -> dict[str, float]:
    """Nearest-rank percentiles by their number as text; empty for no values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"{p:g}": ordered[min(last, max(0, -int(-len(ordered) * p // 100) - 1))] for p in percents if ordered}


class Load:
    """Sends the requests of a case on time and reads their results."""

    def __init__(self, order: Order, publisher: KafkaPublisher, consumer: Any) -> None:
        case = order.case
        self._order = order
        self._publisher = publisher
        self._consumer = consumer
        self._template = RequestTemplate(case, order.run)
        self._run = f"/{order.run}-".encode()
        self._plan = due(case)
        self._total = len(self._plan)
        # By request number; NaN where there is no answer.
        self._added_ms = array("d", [float("nan")]) * self._total
        self._queue_ms = array("d", [float("nan")]) * self._total
        self._model_ms = array("d", [float("nan")]) * self._total
        self._behind_ms = array("d", bytes(8 * self._total))
        self._answered_s = array("d", [float("nan")]) * self._total
        self._statuses: Counter[str] = Counter()
        self._duplicates = self._answered = self._unsent = 0
        self._sent_s = self._began = self._heard = 0.0

    async def run(self) -> dict[str, Any]:
        """Everything measured, as JSON."""
        reading = asyncio.create_task(self._read())
        try:
            gc.collect()
            gc.freeze()
            self._began = self._heard = time.perf_counter() + LEAD_S
            await self._send()
            await self._publisher.flush()
            while self._answered < self._total - self._unsent and time.perf_counter() - self._heard < STALL_S:
                if reading.done():
                    break
                await asyncio.sleep(0.02)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if not reading.cancelled() and (failure := reading.exception()) is not None:
            raise failure
        return self._summary()

    async def _send(self) -> None:
        topic, plan, template = self._order.topic_prefix + "requests", self._plan, self._template
        began, now, send = self._began, time.perf_counter, self._publisher.send
        number, total = 0, self._total
        while number < total:
            at_s = now() - began
            while number < total and plan[number][0] <= at_s:
                due_s, tenant = plan[number]
                ack = send(Outgoing(topic, None, template.request(tenant, number), (), number % 8))
                ack.add_done_callback(self._acknowledged)
                self._behind_ms[number] = (now() - began - due_s) * 1000
                number += 1
            if number < total:
                await asyncio.sleep(max(0.0, plan[number][0] - (now() - began)))
        self._sent_s = now() - began

    def _acknowledged(self, ack: asyncio.Future[Record]) -> None:
        if ack.cancelled() or ack.exception() is not None:
            self._unsent += 1

    async def _read(self) -> None:
        run = self._run
        while True:
            batches = await self._consumer.getmany(timeout_ms=200, max_records=300)
            now = time.perf_counter()
            for records in batches.values():
                for record in records:
                    if run in record.key:
                        self._take(int(record.key[record.key.rindex(b"-") + 1 :]), record.value, now)

    def _take(self, number: int, value: bytes, now: float) -> None:
        if not math.isnan(self._answered_s[number]):
            self._duplicates += 1
            return
        # Only the timings are decoded: this process must cost little next to what it measures.
        start = value.index(b'"timings":{') + 10
        timings = orjson.loads(value[start : value.index(b"}", start) + 1])
        status = value.index(b'"status":"') + 10
        text = value[status : value.index(b'"', status)].decode()
        if text != "succeeded" and (code := value.find(b'"code":"')) > 0:
            text += ":" + value[code + 8 : value.index(b'"', code + 8)].decode()
        self._statuses[text] += 1
        at_s = now - self._began
        self._answered_s[number] = at_s
        self._model_ms[number] = timings["model_ms"]
        if text == "succeeded":
            self._queue_ms[number] = timings["queue_ms"]
            self._added_ms[number] = (at_s - self._plan[number][0]) * 1000 - timings["model_ms"]
        self._answered += 1
        self._heard = now

    def _summary(self) -> dict[str, Any]:
        succeeded = [n for n in range(self._total) if not math.isnan(self._added_ms[n])]
        light = [n for n in succeeded if self._plan[n][1] != FLOODER]
        flood = [n for n in succeeded if self._plan[n][1] == FLOODER]
        last_s = max((at for at in self._answered_s if not math.isnan(at)), default=0.0)
        return {
            "case": asdict(self._order.case),
            "requests": self._total,
            "sent_s": self._sent_s,
            "offered_per_s": self._total / self._sent_s if self._sent_s else 0.0,
            "achieved_per_s": self._answered / last_s if last_s else 0.0,
            "last_answer_s": last_s,
            "answered": self._answered,
            "unsent": self._unsent,
            "duplicates": self._duplicates,
            "statuses": dict(self._statuses),
            "behind_ms": percentiles(self._behind_ms, (50, 99, 100)),
            "added_ms": percentiles([self._added_ms[n] for n in light]),
            "queue_ms": percentiles([self._queue_ms[n] for n in light]),
            "model_ms": percentiles([self._model_ms[n] for n in light], (50, 99)),
            "flood_queue_ms": percentiles([self._queue_ms[n] for n in flood], (50, 99, 100)),
            "seconds": self._by_second(light),
        }

    def _by_second(self, numbers: Sequence[int]) -> list[dict[str, float]]:
        """For each second of the schedule: answers that came in it, and latencies of requests due in it."""
        came = Counter(int(at) for at in self._answered_s if not math.isnan(at))
        due: dict[int, list[float]] = {}
        for n in numbers:
            due.setdefault(int(self._plan[n][0]), []).append(self._added_ms[n])
        return [
            {"second": second, "answers": came[second], **percentiles(due.get(second, []), (50, 99))}
            for second in range(max([*came, *due], default=-1) + 1)
        ]


def due(case: Case) -> list[tuple[float, str]]:
    """When each request is due, in seconds from the start, and whose it is."""
    tenants = [tenant_name(number) for number in range(case.tenants)]
    plan = [(number / case.rate, tenants[number % len(tenants)]) for number in range(case.requests)]
    plan += [(number / case.flood_rate, FLOODER) for number in range(case.flood_requests)]
    return sorted(plan)


async def _offer(order: Order) -> dict[str, Any]:
    publisher = KafkaPublisher(order.kafka, "bench-load", buffer_bytes=1 << 30)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=order.kafka, enable_auto_commit=False, check_crcs=False, fetch_max_wait_ms=500
    )
    await publisher.start()
    try:
        await consumer.start()
        topic = order.topic_prefix + "results"
        await publisher.partitions(order.topic_prefix + "requests")
        await consumer._client._wait_on_metadata(topic)  # noqa: SLF001 - there is no public way to learn a topic
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(partitions)
        for partition, end in (await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, end)
        return await Load(order, publisher, consumer).run()
    finally:
        await consumer.stop()
        await publisher.stop()


def main() -> int:
    raw = json.loads(Path(sys.argv[1]).read_text())
    order = Order(**{**raw, "case": Case(**raw["case"])})
    measured = asyncio.run(_offer(order))
    Path(sys.argv[2]).write_text(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
