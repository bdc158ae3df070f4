-- Records that can get no result, with the reason and where their bytes are. A redriven one has another
-- row with redriven_at.
CREATE TABLE IF NOT EXISTS {database}.dead_letters
(
    dead_letter_id String CODEC(ZSTD(1)) COMMENT 'topic/partition/offset of the source record',
    event_time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    stage LowCardinality(String),
    source_topic LowCardinality(String),
    source_partition UInt32 CODEC(T64, ZSTD(1)),
    source_offset UInt64 CODEC(Delta, ZSTD(1)),
    tenant_id LowCardinality(String) COMMENT 'empty where none could be read',
    request_id String CODEC(ZSTD(1)),
    error_code LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    error_field String CODEC(ZSTD(1)),
    error_hint String CODEC(ZSTD(1)),
    retryable Bool,
    payload_bytes UInt64 CODEC(T64, ZSTD(1)),
    payload_sha256 String CODEC(ZSTD(1)),
    redriven_at Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
    config_version LowCardinality(String),
    log_partition UInt32 CODEC(T64, ZSTD(1)) COMMENT 'of the topic dead-letters',
    log_offset UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (error_code, toStartOfHour(event_time), event_time)
TTL toDateTime(event_time) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
