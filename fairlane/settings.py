"""One settings tree, read from ``FAIRLANE_*`` variables and an optional ``fairlane.toml``.

The environment wins over the file. Only ``wiring``, ``cli`` and ``devstack`` read settings; everything
below is given values. To add a setting, add a field with a default and a description.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fairlane.errors import Reject

ENV_PREFIX = "FAIRLANE_"


def _f(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every knob, with its default. The variable of ``kafka_bootstrap`` is ``FAIRLANE_KAFKA_BOOTSTRAP``."""

    kafka_bootstrap: str = _f("", "host:port of Kafka; empty: the one started by `fairlane up`")
    redis_url: str = _f("", "redis://host:port/db; empty: the one started by `fairlane up`")
    clickhouse_url: str = _f("", "http://user:password@host:port; empty: the one started by `fairlane up`")
    clickhouse_database: str = _f("fairlane", "database of all tables")
    simulator_url: str = _f("", "base URL of the model simulator; empty: the one started by `fairlane up`")
    topic_prefix: str = _f("fairlane.", "prefix of every topic")
    group_prefix: str = _f("fairlane.", "prefix of every consumer group")
    state_dir: str = _f(".fairlane", "where `up` keeps state, data and logs")
    cache_dir: str = _f("", "where downloaded jars and binaries are kept; empty: the user's cache directory")
    instance: str = _f("", "stable name of this process among those of its stage; set by `up`")
    stage_processes: str = _f(
        "gate=1,dispatcher=2,worker=2,settle=1,sinks=1", "how many processes `up` starts of each stage"
    )
    stage_engines: str = _f("", "stages on another engine than the topology's, as gate=faust; empty: none")
    free_ports: bool = _f(False, "let `up` choose free ports instead of the well-known ones")
    kafka_heap: str = _f("512m", "largest heap of the broker started by `up`")
    log_level: str = _f("info", "debug, info, warning or error")
    metrics_port: int = _f(0, "port of /metrics, /healthz and /readyz; 0: a free one")
    metrics_host: str = _f("127.0.0.1", "address of /metrics")
    max_request_bytes: int = _f(1_048_576, "a larger request is refused as too_large")
    session_timeout_ms: int = _f(10_000, "a silent process loses its partitions after this")
    dispatcher_session_timeout_ms: int = _f(6_000, "the same for dispatchers: a standby takes over after this")
    commit_interval_ms: int = _f(500, "how often offsets are committed")
    drain_timeout_ms: int = _f(30_000, "how long a stopping process waits for what is in flight")
    hang_timeout_ms: int = _f(
        30_000, "`up` kills and restarts a stage whose /healthz did not answer for so long; 0: never"
    )
    default_timeout_ms: int = _f(600_000, "deadline of a request that names none")
    idempotency_ttl_s: int = _f(86_400, "how long an answer is kept for replays")
    batch_max_records: int = _f(500, "records a stage takes at once")
    window_records: int = _f(5_000, "unfinished records of a partition before reading it pauses")
    sink_batch_rows: int = _f(5_000, "rows of one insert")
    sink_batch_ms: int = _f(500, "age at which a smaller batch is inserted")


def load_settings(environ: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """Read settings; raises :class:`~fairlane.errors.Reject` naming the variable or key that is wrong."""
    environ = os.environ if environ is None else environ
    path = file or Path(environ.get(ENV_PREFIX + "CONFIG", "fairlane.toml"))
    raw: dict[str, Any] = {}
    if path.is_file():
        try:
            raw = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as failure:
            raise Reject(f"{path}: not valid TOML: {failure}") from None
    known = {f.name: f for f in fields(Settings)}
    for name in raw:
        if name not in known:
            raise Reject(f"{path}: unknown setting {name!r}; known: {', '.join(known)}")
    values: dict[str, Any] = {name: _coerce(str(path), name, value) for name, value in raw.items()}
    for name in known:
        variable = ENV_PREFIX + name.upper()
        if environ.get(variable, "") != "":
            values[name] = _coerce(variable, name, environ[variable])
    return Settings(**values)


def _coerce(where: str, name: str, value: Any) -> Any:
    wanted = type(getattr(Settings(), name))
    if wanted is bool:
        text = str(value).lower()
        if text in {"1", "true", "yes", "on"}:
            return True
        if text in {"0", "false", "no", "off"}:
            return False
        raise Reject(f"{where}: {name} must be true or false")
    if wanted is int:
        try:
            return int(value)
        except (TypeError, ValueError):
            raise Reject(f"{where}: {name} must be a whole number") from None
    return str(value)
