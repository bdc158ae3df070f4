"""One case of load as a process of its own: ``python -m benchmarks.load ORDER.json OUT.json``.

The schedule is fixed before the first request: a slow system does not slow it down, and every latency
counts from the moment at which its request was due, not from when it could be sent (else the requests
that a stall held back would be missing: "coordinated omission"). Results are read by a plain consumer
in the same process, so one clock measures both ends. Both are librdkafka's, which costs a fraction of what a
client in Python does: this process shares the cores of what it measures. The producer has its defaults, so it
gathers for up to 5 ms, which count as added latency.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from benchmarks.cases import FLOODER, Case, RequestTemplate, tenant_name
from fairlane.errors import Fatal

LEAD_S = 0.3
"""Between the last preparation and the first request."""
STALL_S = 15.0
"""No answer for so long: the rest is taken for lost."""
POLL_S = 0.2
ANSWER_S = 10.0
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

    def __init__(self, order: Order, producer: Producer, consumer: Consumer) -> None:
        case = order.case
        self._order = order
        self._producer = producer
        self._consumer = consumer
        self._ended = threading.Event()
        self._failure: Exception | None = None
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
        self._sent_s = self._began = self._began_at = self._heard = 0.0

    def run(self) -> dict[str, Any]:
        """Everything measured, as JSON. Raises Fatal where results cannot be read."""
        reading = threading.Thread(target=self._read)
        gc.collect()
        gc.freeze()
        self._began = self._heard = time.perf_counter() + LEAD_S
        self._began_at = time.monotonic() + LEAD_S
        reading.start()
        try:
            self._send()
            while self._answered < self._total - self._unsent and time.perf_counter() - self._heard < STALL_S:
                if self._failure is not None:
                    raise Fatal(f"the results cannot be read: {self._failure}") from self._failure
                self._producer.poll(0.02)
        finally:
            self._ended.set()
            reading.join()
        return self._summary()

    def _send(self) -> None:
        topic, plan, template = self._order.topic_prefix + "requests", self._plan, self._template
        began, now, producer = self._began, time.perf_counter, self._producer
        number, total = 0, self._total
        while number < total and self._failure is None:
            at_s = now() - began
            while number < total and plan[number][0] <= at_s:
                due_s, tenant = plan[number]
                producer.produce(
                    topic,
                    template.request(tenant, number),
                    on_delivery=self._delivered,
                )
                self._behind_ms[number] = (now() - began - due_s) * 1000
                number += 1
            producer.poll(0)
            if number < total:
                time.sleep(max(0.0, plan[number][0] - (now() - began)))
        self._sent_s = now() - began

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._unsent += 1

    def _read(self) -> None:
        try:
            self._follow()
        except Exception as failure:  # noqa: BLE001 - raised by run(), in the other thread
            self._failure = failure

    def _follow(self) -> None:
        run, poll = self._run, self._consumer.poll
        while not self._ended.is_set():
            message = poll(POLL_S)
            if message is None:
                continue
            if (error := message.error()) is not None:
                raise KafkaException(error)
            key, value = message.key(), message.value()
            if key is not None and value is not None and run in key:
                self._take(int(key[key.rindex(b"-") + 1 :]), value, time.perf_counter())

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
            "began_at": self._began_at,
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
    tenants = case.names or [tenant_name(number) for number in range(case.tenants)]
    plan = [(number / case.rate, tenants[number % len(tenants)]) for number in range(case.requests)]
    plan += [(number / case.flood_rate, FLOODER) for number in range(case.flood_requests)]
    return sorted(plan)


def _offer(order: Order) -> dict[str, Any]:
    producer = Producer(
        {
            "bootstrap.servers": order.kafka,
            "client.id": "bench-load",
            "enable.idempotence": True,
            "queue.buffering.max.kbytes": 1 << 20,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    consumer = Consumer({"bootstrap.servers": order.kafka, "group.id": order.run, "enable.auto.commit": False})
    try:
        requests, results = (order.topic_prefix + name for name in ("requests", "results"))
        known = consumer.list_topics(timeout=ANSWER_S).topics
        if missing := {requests, results} - known.keys():
            raise Fatal(f"there is no topic {', '.join(sorted(missing))} at {order.kafka}")
        at_end = []
        for number in known[results].partitions:
            _, end = consumer.get_watermark_offsets(TopicPartition(results, number), timeout=ANSWER_S)
            at_end.append(TopicPartition(results, number, end))
        consumer.assign(at_end)
        return Load(order, producer, consumer).run()
    finally:
        consumer.close()
        producer.flush(ANSWER_S)


def main() -> int:
    raw = json.loads(Path(sys.argv[1]).read_text())
    order = Order(**{**raw, "case": Case(**raw["case"])})
    Path(sys.argv[2]).write_text(json.dumps(_offer(order)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
