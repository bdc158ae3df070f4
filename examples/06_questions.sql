-- Questions to copy. Each statement runs as it stands in the database `fairlane`.

-- Who pays how much for what?
SELECT tenant_id, model, price_id, count() AS requests, sum(cost_nano_usd) / 1e9 AS usd
FROM requests
GROUP BY tenant_id, model, price_id
ORDER BY usd DESC;

-- Who waits, and does the wait come from the queue or from the model?
SELECT tenant_id,
       round(quantileExact(0.5)(queue_ms), 1) AS queue_p50,
       round(quantileExact(0.99)(queue_ms), 1) AS queue_p99,
       round(quantileExact(0.5)(model_ms), 1) AS model_p50,
       round(quantileExact(0.5)(added_ms), 1) AS added_p50
FROM requests
WHERE status = 'succeeded'
GROUP BY tenant_id
ORDER BY queue_p99 DESC;

-- Does every tenant that waits get its share? Tokens served per minute.
SELECT toStartOfMinute(completed_at) AS minute, tenant_id, sum(input_tokens + output_tokens) AS tokens,
       round(tokens / sum(tokens) OVER (PARTITION BY minute), 3) AS share
FROM requests
WHERE status = 'succeeded'
GROUP BY minute, tenant_id
ORDER BY minute DESC, share DESC
LIMIT 50;

-- Why were requests refused, and what should the tenant do?
SELECT tenant_id, reason_code, any(reason_message) AS example, any(reason_suggestion) AS suggestion, count() AS times
FROM decisions
WHERE kind = 'rejected'
GROUP BY tenant_id, reason_code
ORDER BY times DESC;

-- Why did requests wait?
SELECT tenant_id, reason_code, count() AS times, round(avg(toFloat64OrZero(attributes['waited_ms'])), 1) AS mean_ms
FROM decisions
WHERE kind = 'dispatched'
GROUP BY tenant_id, reason_code
ORDER BY times DESC;

-- Which provider fails, and how?
SELECT provider, model, status, error_code, count() AS calls, round(quantileExact(0.5)(model_ms), 1) AS model_p50
FROM attempts
GROUP BY provider, model, status, error_code
ORDER BY calls DESC;

-- Did a provider get paid for calls that gave no answer?
SELECT tenant_id, count() AS calls, sum(cost_nano_usd) / 1e9 AS usd
FROM attempts
WHERE status != 'succeeded' AND cost_nano_usd > 0
GROUP BY tenant_id;

-- Cost by a label of the requests.
SELECT labels['project'] AS project, sum(cost_nano_usd) / 1e9 AS usd
FROM requests
GROUP BY project
ORDER BY usd DESC;

-- Which configuration was in effect, and from when?
SELECT config_version, min(event_time) AS first_seen, count() AS requests
FROM requests
GROUP BY config_version
ORDER BY first_seen;

-- What became a dead letter, and was it sent again? (dead_letters has a row for each event: dead-lettered, redriven.)
SELECT event_time, dead_letter_id, stage, error_code, error_message, error_field, redriven_at
FROM dead_letters_current
ORDER BY event_time DESC
LIMIT 20;
