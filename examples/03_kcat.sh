#!/usr/bin/env bash
# Send one request and read its result with kcat.
set -euo pipefail
KAFKA=${FAIRLANE_KAFKA_BOOTSTRAP:-127.0.0.1:9092}
PREFIX=${FAIRLANE_TOPIC_PREFIX:-fairlane.}
REQUEST_ID=kcat-$(date +%s)-$$
# Results are read from this second on, so that none is missed and none is much older.
SINCE=$(date +%s)000

printf '{"schema": "fairlane.request.v1", "request_id": "%s", "tenant_id": "acme", "body": {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}}\n' "$REQUEST_ID" |
  kcat -P -b "$KAFKA" -t "${PREFIX}requests"

# The record key of a result is tenant_id/request_id. kcat -e ends at the end of the topic, so look again until it is there.
for _ in $(seq 60); do
  if kcat -C -q -e -b "$KAFKA" -t "${PREFIX}results" -o "s@$SINCE" -f '%k %s\n' | grep "^acme/$REQUEST_ID "; then
    exit 0
  fi
  sleep 1
done
echo "no result within 60 s" >&2
exit 1
