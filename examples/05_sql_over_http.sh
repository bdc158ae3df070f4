#!/usr/bin/env bash
# One query over HTTP: what was refused today, and why. The parameter is bound by the server.
set -euo pipefail
CLICKHOUSE=${FAIRLANE_CLICKHOUSE_URL:-http://127.0.0.1:8123}
DATABASE=${FAIRLANE_CLICKHOUSE_DATABASE:-fairlane}

curl -sS --fail-with-body "$CLICKHOUSE/?database=$DATABASE&param_status=succeeded" --data-binary "
  SELECT tenant_id, status, error_code, count() AS requests
  FROM requests
  WHERE status != {status:String} AND event_time > now() - INTERVAL 1 DAY
  GROUP BY tenant_id, status, error_code
  ORDER BY requests DESC
  FORMAT PrettyCompactMonoBlock"
