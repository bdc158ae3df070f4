-- Why a stage did what it did with a request: the rule, how much of it was used, what would change it.
CREATE TABLE IF NOT EXISTS {database}.decisions
(
    tenant_id LowCardinality(String) COMMENT 'empty where none could be read',
    request_id String CODEC(ZSTD(1)),
    decision_id String CODEC(ZSTD(1)),
    event_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    stage LowCardinality(String),
    kind LowCardinality(String),
    reason_code LowCardinality(String),
    reason_message String CODEC(ZSTD(1)),
    reason_limit Nullable(Int64) CODEC(T64, ZSTD(1)),
    reason_used Nullable(Int64) CODEC(T64, ZSTD(1)),
    reason_unit LowCardinality(String),
    reason_suggestion String CODEC(ZSTD(1)),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    config_version LowCardinality(String),
    trace_id String CODEC(ZSTD(1)),
    log_partition UInt32 CODEC(T64, ZSTD(1)) COMMENT 'of the topic decisions',
    log_offset UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_request request_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (tenant_id, kind, toStartOfHour(event_time), reason_code, event_time)
TTL toDateTime(event_time) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
