"""The topics of one installation by their full names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fairlane.schemas import topics


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Full names for a prefix, for example ``fairlane.results``."""

    prefix: str

    @property
    def requests(self) -> str:
        """What tenants ask."""
        return topics.REQUESTS.full_name(self.prefix)

    @property
    def results(self) -> str:
        """Terminal answers."""
        return topics.RESULTS.full_name(self.prefix)

    @property
    def chunks(self) -> str:
        """Pieces of streamed answers."""
        return topics.CHUNKS.full_name(self.prefix)

    @property
    def decisions(self) -> str:
        """Why stages did what they did."""
        return topics.DECISIONS.full_name(self.prefix)

    @property
    def attempts(self) -> str:
        """Provider calls."""
        return topics.ATTEMPTS.full_name(self.prefix)

    @property
    def commands(self) -> str:
        """Requests to cancel."""
        return topics.COMMANDS.full_name(self.prefix)

    @property
    def dead_letters(self) -> str:
        """Records that can get no result."""
        return topics.DEAD_LETTERS.full_name(self.prefix)

    @property
    def tenants(self) -> str:
        """Tenants as applied."""
        return topics.TENANTS.full_name(self.prefix)

    @property
    def catalog(self) -> str:
        """The catalog as applied."""
        return topics.CATALOG.full_name(self.prefix)

    @property
    def scheduler_state(self) -> str:
        """Fairness counters."""
        return topics.SCHEDULER_STATE.full_name(self.prefix)

    def lanes(self, pool: str) -> str:
        """Lanes of a pool."""
        return topics.LANES.full_name(self.prefix, pool)

    def inbox(self, pool: str) -> str:
        """Slot groups of a pool."""
        return topics.INBOX.full_name(self.prefix, pool)

    def pool_of(self, topic: str) -> str:
        """The pool of a lanes or inbox topic."""
        return _pool_of(self.prefix, topic)


@lru_cache
def _pool_of(prefix: str, topic: str) -> str:
    """Asked for each record, of few topics."""
    for spec in (topics.LANES, topics.INBOX):
        stem = prefix + spec.name.format(pool="")
        if topic.startswith(stem):
            return topic[len(stem) :]
    raise ValueError(f"{topic} is not a topic of a pool")
