"""Ask for a stream and print the answer while it is made.

python examples/02_stream.py "Tell me a story"
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition

KAFKA = os.environ.get("FAIRLANE_KAFKA_BOOTSTRAP") or "127.0.0.1:9092"
PREFIX = os.environ.get("FAIRLANE_TOPIC_PREFIX") or "fairlane."
WAIT_S = 60


def main() -> int:
    prompt = sys.argv[1] if len(sys.argv) > 1 else "Tell me a story"
    request_id = f"stream-{uuid.uuid4()}"

    consumer = Consumer({"bootstrap.servers": KAFKA, "group.id": request_id, "enable.auto.commit": False})
    places = []
    for topic in (f"{PREFIX}chunks", f"{PREFIX}results"):
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
            places.append(TopicPartition(topic, partition, end))
    consumer.assign(places)

    request = {
        "schema": "fairlane.request.v1",
        "request_id": request_id,
        "tenant_id": "acme",
        "stream": True,
        "body": {"model": "auto", "messages": [{"role": "user", "content": prompt}], "max_tokens": 64},
    }
    producer = Producer({"bootstrap.servers": KAFKA, "acks": "all"})
    producer.produce(f"{PREFIX}requests", json.dumps(request))
    producer.flush()

    try:
        return follow(consumer, request_id)
    finally:
        consumer.close()


def follow(consumer: Consumer, request_id: str) -> int:
    result, complete = None, False
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        value = json.loads(message.value() or "{}")
        if value.get("request_id") != request_id:
            continue
        if message.topic() == f"{PREFIX}results":
            result = value
        else:
            # A higher `attempt` starts the answer over; `sequence` counts within it.
            for choice in value["delta"].get("choices", []):
                print(choice["delta"].get("content") or "", end="", flush=True)
            complete = complete or value["last"]
        # The result is the answer of record, and comes even where the stream broke off.
        if result is not None and (complete or result["status"] != "succeeded"):
            print(f"\n{result['status']}, {result['usage']['output_tokens']} tokens")
            return 0 if result["status"] == "succeeded" else 1
    print(f"no result within {WAIT_S} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
