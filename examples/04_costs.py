"""Cost and waiting time per tenant, with the official ClickHouse client.

python examples/04_costs.py
"""

from __future__ import annotations

import os

import clickhouse_connect

URL = os.environ.get("FAIRLANE_CLICKHOUSE_URL") or "http://127.0.0.1:8123"
DATABASE = os.environ.get("FAIRLANE_CLICKHOUSE_DATABASE") or "fairlane"

QUERY = """
SELECT tenant_id, model, count() AS requests, sum(input_tokens + output_tokens) AS tokens,
       sum(cost_nano_usd) AS nano_usd, round(quantileExact(0.99)(queue_ms), 1) AS p99_queue_ms
FROM requests
WHERE status = 'succeeded' AND event_time > now() - INTERVAL {days:UInt16} DAY
GROUP BY tenant_id, model
ORDER BY nano_usd DESC
"""


def main() -> None:
    client = clickhouse_connect.get_client(dsn=URL, database=DATABASE)
    rows = client.query(QUERY, parameters={"days": 7}).result_rows
    print(f"{'tenant':<16}{'model':<16}{'requests':>9}{'tokens':>12}{'p99 wait ms':>13}{'cost USD':>16}")
    for tenant, model, requests, tokens, nano_usd, p99_queue_ms in rows:
        print(f"{tenant:<16}{model:<16}{requests:>9}{tokens:>12}{p99_queue_ms:>13}{nano_usd / 1e9:>16.9f}")


if __name__ == "__main__":
    main()
