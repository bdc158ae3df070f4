"""Reads what is applied and writes what a plan changes, one record an entry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from fairlane.agents.config_plan import Plan
from fairlane.agents.config_view import ConfigFold
from fairlane.errors import Poison, Retry
from fairlane.ports import LogReader, Outgoing, Publisher, Record


@dataclass(frozen=True, slots=True)
class Applied:
    """What is applied, and where the two topics ended when it was read."""

    fold: ConfigFold
    ends: dict[str, int] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()
    """Keys whose last record is not as its contract says; stages go on with the value before it."""


async def read_applied(reader: LogReader, tenants_topic: str, catalog_topic: str) -> Applied:
    """Read both topics whole. Raises Retry while the log cannot be read."""
    fold = ConfigFold()
    ends: dict[str, int] = {}
    unreadable: set[str] = set()
    for topic, take in ((tenants_topic, fold.take_tenant), (catalog_topic, fold.take_catalog)):
        topic_ends = await reader.ends(topic)
        ends[topic] = sum(topic_ends.values())
        async for batch in reader.read(topic, await reader.starts(topic), topic_ends):
            for record in batch:
                key = (record.key or b"").decode(errors="replace")
                try:
                    take(record)
                    unreadable.discard(key)
                except Poison:
                    unreadable.add(key)
    return Applied(fold, ends, frozenset(unreadable))


async def write_changes(plan: Plan, topic: str, publisher: Publisher) -> list[Record]:
    """Write every change of the plan and wait until all are acknowledged; returns them as appended.

    Raises Retry, telling how many were, when some were not: applying the same file again completes it.
    Raises Poison for an entry that is larger than a record may be.
    """
    sent = [publisher.send(Outgoing(topic, change.key.encode(), change.value)) for change in plan.changes]
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for failure in failures:
        if not isinstance(failure, Retry):
            raise failure
    if failures:
        done = len(outcomes) - len(failures)
        raise Retry(f"{done} of {len(outcomes)} changes were acknowledged; apply the same file again to complete it")
    return [outcome for outcome in outcomes if isinstance(outcome, Record)]
