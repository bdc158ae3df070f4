"""THE topic registry: name, key, model, partitions, retention, cleanup.

Topic creation, AsyncAPI and the documentation are derived from :data:`TOPICS`. To add a topic, add
a row. Per-pool topics have ``{pool}`` in their name.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from fairlane.schemas.attempt import Attempt
from fairlane.schemas.base import WireModel
from fairlane.schemas.catalog import CatalogEntry
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.command import Command
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision
from fairlane.schemas.job import Job
from fairlane.schemas.request import Request
from fairlane.schemas.result import Result
from fairlane.schemas.scheduler_state import SchedulerState
from fairlane.schemas.tenant import Tenant

DEFAULT_PREFIX = "fairlane."
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic. ``retention_ms`` is None where compaction keeps the last record of a key."""

    name: str
    model: type[WireModel]
    key: str
    partitions: int
    retention_ms: int | None
    cleanup: Literal["delete", "compact"]
    public: bool
    purpose: str

    @property
    def per_pool(self) -> bool:
        """Whether there is one such topic per pool."""
        return "{pool}" in self.name

    def full_name(self, prefix: str, pool: str | None = None) -> str:
        """The name on the broker; ``pool`` is needed exactly where the topic is per pool."""
        if self.per_pool != (pool is not None):
            raise ValueError(f"topic {self.name}: pool is {'needed' if self.per_pool else 'not taken'}")
        return prefix + (self.name.format(pool=pool) if pool is not None else self.name)


_REQUEST_KEY = "tenant_id/request_id; % and / of the tenant id as %25 and %2F"

REQUESTS = TopicSpec(
    "requests", Request, "any; tenants may use any key and partition", 8, 7 * DAY_MS, "delete", True,
    "What tenants ask.",
)  # fmt: skip
# Four partitions for what the sinks read: each costs an insert into ClickHouse a round and a batch a write.
RESULTS = TopicSpec(
    "results", Result, _REQUEST_KEY, 4, 7 * DAY_MS, "delete", True,
    "The terminal answer to every request; the lowest offset of a key wins.",
)  # fmt: skip
CHUNKS = TopicSpec(
    "chunks", Chunk, _REQUEST_KEY, 8, DAY_MS, "delete", True, "Pieces of streamed answers.",
)  # fmt: skip
DECISIONS = TopicSpec(
    "decisions", Decision, _REQUEST_KEY, 4, 7 * DAY_MS, "delete", True,
    "Why a stage did what it did with a request.",
)  # fmt: skip
ATTEMPTS = TopicSpec(
    "attempts", Attempt, _REQUEST_KEY, 4, 7 * DAY_MS, "delete", True, "Every call to a provider.",
)  # fmt: skip
COMMANDS = TopicSpec(
    "commands", Command, _REQUEST_KEY, 1, DAY_MS, "delete", True, "Requests to cancel.",
)  # fmt: skip
DEAD_LETTERS = TopicSpec(
    "dead-letters", DeadLetter, "dead_letter_id", 1, 30 * DAY_MS, "delete", True,
    "Records that can get no result, with the reason.",
)  # fmt: skip
TENANTS = TopicSpec("tenants", Tenant, "tenant_id", 1, None, "compact", True, "The tenants as applied.")
CATALOG = TopicSpec("catalog", CatalogEntry, "<kind>/<name>", 1, None, "compact", True, "The catalog as applied.")
LANES = TopicSpec(
    "lanes.{pool}", Job, _REQUEST_KEY, 16, 7 * DAY_MS, "delete", False,
    "Admitted requests waiting for a slot of the pool, in tenants' lanes.",
)  # fmt: skip
INBOX = TopicSpec(
    "inbox.{pool}", Job, _REQUEST_KEY, 8, 7 * DAY_MS, "delete", False,
    "Requests bound to a slot group (the partition).",
)  # fmt: skip
SCHEDULER_STATE = TopicSpec(
    "scheduler-state", SchedulerState, "pool", 1, None, "compact", False, "Fairness counters per pool.",
)  # fmt: skip

TOPICS: tuple[TopicSpec, ...] = (
    REQUESTS, RESULTS, CHUNKS, DECISIONS, ATTEMPTS, COMMANDS, DEAD_LETTERS, TENANTS, CATALOG,
    LANES, INBOX, SCHEDULER_STATE,
)  # fmt: skip


def request_key(tenant_id: str, request_id: str) -> bytes:
    """The record key of everything about one request.

    Ids may hold slashes. Encoding those of the tenant makes the first slash of a key the separator, so
    that ``a/b`` with ``c`` and ``a`` with ``b/c`` are two requests: of one key only one result counts.
    """
    return f"{tenant_id.replace('%', '%25').replace('/', '%2F')}/{request_id}".encode()


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key on topics written by Fairlane: CRC-32 modulo their number.

    All records of a request on one topic share a partition, so their order is defined. Cheaper
    than the client's murmur2, which aiokafka computes in Python.
    """
    return zlib.crc32(key) % partitions
