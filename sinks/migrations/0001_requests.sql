-- One row per request: its terminal result. event_time is when it completed, as the event says.
-- The deduplication window is counted in inserted blocks (a batch of one log partition, per month it touches);
-- it outlasts every batch that could be delivered again.
CREATE TABLE IF NOT EXISTS {database}.requests
(
    tenant_id LowCardinality(String),
    request_id String CODEC(ZSTD(1)),
    idempotency_key String CODEC(ZSTD(1)),
    status LowCardinality(String),
    error_code LowCardinality(String) COMMENT 'empty unless it failed or was refused',
    priority LowCardinality(String),
    pool LowCardinality(String),
    provider LowCardinality(String),
    model LowCardinality(String),
    route String CODEC(ZSTD(1)) COMMENT 'why it went where it went',
    received_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    admitted_at Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
    dispatched_at Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
    first_token_at Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
    completed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    event_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'completed_at',
    queue_ms Float64 CODEC(ZSTD(1)),
    model_ms Float64 CODEC(ZSTD(1)),
    added_ms Float64 CODEC(ZSTD(1)),
    input_tokens UInt64 CODEC(T64, ZSTD(1)) COMMENT 'includes cached ones',
    cached_input_tokens UInt64 CODEC(T64, ZSTD(1)),
    output_tokens UInt64 CODEC(T64, ZSTD(1)) COMMENT 'includes reasoning',
    reasoning_tokens UInt64 CODEC(T64, ZSTD(1)),
    cost_nano_usd Int64 CODEC(T64, ZSTD(1)) COMMENT '10^-9 US dollars',
    price_id LowCardinality(String),
    attempts UInt32 CODEC(T64, ZSTD(1)),
    cached Bool,
    replayed Bool,
    labels Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    config_version LowCardinality(String),
    trace_id String CODEC(ZSTD(1)),
    log_partition UInt32 CODEC(T64, ZSTD(1)) COMMENT 'of the topic results',
    log_offset UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (tenant_id, toStartOfHour(event_time), model, event_time)
TTL toDateTime(event_time) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
