-- One row per call to a provider, with what it cost and how it ended.
CREATE TABLE IF NOT EXISTS {database}.attempts
(
    tenant_id LowCardinality(String),
    request_id String CODEC(ZSTD(1)),
    attempt_id String CODEC(ZSTD(1)),
    attempt UInt32 CODEC(T64, ZSTD(1)),
    status LowCardinality(String),
    error_code LowCardinality(String),
    pool LowCardinality(String),
    provider LowCardinality(String),
    model LowCardinality(String),
    worker LowCardinality(String),
    started_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    first_token_at Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
    completed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    event_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'completed_at',
    model_ms Float64 CODEC(ZSTD(1)),
    http_status Nullable(UInt16) CODEC(T64, ZSTD(1)),
    provider_request_id String CODEC(ZSTD(1)),
    finish_reason LowCardinality(String),
    input_tokens UInt64 CODEC(T64, ZSTD(1)) COMMENT 'includes cached ones',
    cached_input_tokens UInt64 CODEC(T64, ZSTD(1)),
    output_tokens UInt64 CODEC(T64, ZSTD(1)) COMMENT 'includes reasoning',
    reasoning_tokens UInt64 CODEC(T64, ZSTD(1)),
    cost_nano_usd Int64 CODEC(T64, ZSTD(1)) COMMENT '10^-9 US dollars',
    price_id LowCardinality(String),
    config_version LowCardinality(String),
    trace_id String CODEC(ZSTD(1)),
    log_partition UInt32 CODEC(T64, ZSTD(1)) COMMENT 'of the topic attempts',
    log_offset UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (provider, model, tenant_id, toStartOfHour(event_time), event_time)
TTL toDateTime(event_time) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
