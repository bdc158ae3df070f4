"""Topics, and the tenants and catalog a new stack starts with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fairlane.adapters.kafka_publisher import KafkaPublisher
from fairlane.adapters.kafka_reader import KafkaReader
from fairlane.adapters.kafka_topics import create_topics
from fairlane.agents.config_apply import read_applied, write_changes
from fairlane.agents.config_file import read_catalog_file, read_tenants_file
from fairlane.agents.config_plan import Change, Plan, plan_catalog, plan_tenants
from fairlane.agents.topic_names import TopicNames
from fairlane.clock import SystemClock
from fairlane.devstack.defaults import default_catalog, default_tenants
from fairlane.schemas.catalog import CatalogEntry
from fairlane.schemas.codec import encode

SIMULATOR_URL = "{simulator_url}"


@dataclass(frozen=True, slots=True)
class FirstConfig:
    """What a new stack starts with, as the text of files. :data:`SIMULATOR_URL` in the catalog becomes the base
    URL of the simulator (``http://host:port/v1``).
    """

    tenants: str
    catalog: str


@dataclass(frozen=True, slots=True)
class LogPreparation:
    """What to prepare. ``simulator_was`` is the address of the simulator when this log was used last, or empty."""

    bootstrap: str
    topic_prefix: str
    simulator_url: str
    simulator_was: str = ""
    first: FirstConfig | None = None

    async def run(self) -> None:
        """Create missing topics; apply the first (default: packaged) tenants and catalog where none are applied.

        Providers that stood at the simulator's old address are moved to its new one. Raises Retry while
        Kafka is away.
        """
        names = TopicNames(self.topic_prefix)
        first = self.first or FirstConfig(default_tenants(), default_catalog(SIMULATOR_URL))
        await create_topics(self.bootstrap, self.topic_prefix)
        async with AsyncExitStack() as stack:
            reader = KafkaReader(self.bootstrap)
            await reader.start()
            stack.push_async_callback(reader.stop)
            applied = await read_applied(reader, names.tenants, names.catalog)
            tenants: tuple[Change, ...] = ()
            if not applied.fold.tenants and not applied.ends[names.tenants]:
                file = read_tenants_file(first.tenants, "the first tenants")
                tenants = plan_tenants(file, {}, rewrite=frozenset(), prune=False).changes
            pools = {entry.pool.pool for entry in applied.fold.catalog.values() if entry.pool is not None}
            catalog: tuple[Change, ...] = ()
            if not applied.fold.catalog and not applied.ends[names.catalog]:
                plan = plan_catalog(
                    read_catalog_file(first.catalog.replace(SIMULATOR_URL, self.simulator_url), "the first catalog"),
                    {}, rewrite=frozenset(), prune=False, now_ms=SystemClock().now_ms(),
                )  # fmt: skip
                catalog, pools = plan.changes, set(plan.pools)
            else:
                catalog = moved_providers(applied.fold.catalog.values(), self.simulator_was, self.simulator_url)
            # Before the records that name them: a stage looks for a pool's topics as soon as it knows the pool.
            await create_topics(self.bootstrap, self.topic_prefix, sorted(pools))
            if not tenants and not catalog:
                return
            publisher = KafkaPublisher(self.bootstrap, "fairlane-up")
            await publisher.start()
            stack.push_async_callback(publisher.stop)
            for topic, changes in ((names.tenants, tenants), (names.catalog, catalog)):
                if changes:
                    await write_changes(Plan(changes), topic, publisher)


def moved_providers(applied: Iterable[CatalogEntry], was: str, now: str) -> tuple[Change, ...]:
    """The providers at the base URL ``was``, to be written with ``now``."""
    if not was or not now or was == now:
        return ()
    changes = []
    for entry in applied:
        if entry.provider is not None and entry.provider.base_url.rstrip("/") == was.rstrip("/"):
            moved = entry.model_copy(update={"provider": entry.provider.model_copy(update={"base_url": now})})
            changes.append(Change("change", entry.key, encode(moved), (f"base_url: {was} -> {now}",)))
    return tuple(changes)
