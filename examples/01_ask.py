"""Send one request with a plain Kafka client and wait for its result.

python examples/01_ask.py "Why is the sky blue?"
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

KAFKA = os.environ.get("FAIRLANE_KAFKA_BOOTSTRAP") or "127.0.0.1:9092"
PREFIX = os.environ.get("FAIRLANE_TOPIC_PREFIX") or "fairlane."
WAIT_S = 60


def main() -> int:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "Why is the sky blue?"
    request_id = f"ask-{uuid.uuid4()}"

    # Stand at the end of `results` before asking: then no result can be missed, and none is old.
    results = Consumer({"bootstrap.servers": KAFKA, "group.id": request_id, "enable.auto.commit": False})
    topic = f"{PREFIX}results"
    partitions = results.list_topics(topic, timeout=10).topics[topic].partitions
    ends = [(p, results.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]) for p in partitions]
    results.assign([TopicPartition(topic, partition, end) for partition, end in ends])

    # Any key and any partition will do. The idempotency key makes sending this again harmless.
    request = {
        "schema": "fairlane.request.v1",
        "request_id": request_id,
        "tenant_id": "acme",
        "idempotency_key": request_id,
        "priority": "normal",
        "timeout_ms": 30_000,
        "labels": {"project": "examples"},
        "body": {"model": "auto", "messages": [{"role": "user", "content": prompt}], "max_tokens": 64},
    }
    producer = Producer({"bootstrap.servers": KAFKA, "acks": "all"})
    producer.produce(f"{PREFIX}requests", json.dumps(request))
    producer.flush()

    try:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            message = results.poll(1.0)
            if message is None:
                continue
            if message.error():
                print(f"Kafka: {message.error()}", file=sys.stderr)
                return 1
            result = json.loads(message.value() or "{}")
            if result.get("request_id") == request_id:
                return show(result)
    finally:
        results.close()
    print(f"no result within {WAIT_S} s", file=sys.stderr)
    return 1


def show(result: dict[str, Any]) -> int:
    if result["status"] != "succeeded":
        error = result["error"]
        print(f"{result['status']}: {error['code']}: {error['message']} {error['hint']}", file=sys.stderr)
        return 1
    print(result["response"]["choices"][0]["message"]["content"])
    usage, timings = result["usage"], result["timings"]
    print(f"model    {result['route']['model']}, because {result['route']['reason']}")
    print(f"tokens   {usage['input_tokens']} in, {usage['output_tokens']} out")
    print(f"cost     ${result['cost']['nano_usd'] / 1e9:.9f} at {result['cost']['price_id']}")
    print(f"time     {timings['queue_ms']} ms waiting, {timings['model_ms']} ms at the model")
    return 0


if __name__ == "__main__":
    sys.exit(main())
