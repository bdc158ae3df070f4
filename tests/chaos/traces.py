"""What a fault leaves behind at those it struck: counters that grew, lines in logs, partitions that changed hands.

A fault nobody felt has tested nothing, so a row without such a trace is broken, however well its counts look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from prometheus_client.parser import text_string_to_metric_families

from fairlane.devstack.identity import ProcessIdentity

Owners = Mapping[tuple[str, int], str]
"""By topic and partition the member of the group that has it."""
Counters = Mapping[str, tuple[ProcessIdentity, float]]
"""By name of a process who it was, and what its counter said."""

REQUEST_MS = 5_000


def metric_sum(exposition: str, name: str, **labels: str) -> float:
    """What a process's metric says, summed over the labels that are not given. ``name`` is without prefix."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == f"fairlane_{name}" and labels.items() <= sample.labels.items()
    )


def grown(before: Counters, after: Counters) -> float:
    """By how much the counters of processes grew; one that was started again began at zero."""
    growth = 0.0
    for name, (identity, value) in after.items():
        old, start = before.get(name, (identity, 0.0))
        growth += value - (start if old == identity else 0.0)
    return growth


def lines_since(log: Path, begin: int, text: str) -> list[str]:
    """The lines of a log from byte ``begin`` on that have this text; all of it where it was cut short since."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        if begin <= log.stat().st_size:
            file.seek(begin)
        return [line for line in file.read().decode("utf-8", "replace").splitlines() if text in line]


def sizes(logs: Path) -> dict[Path, int]:
    """How long every log of a directory is."""
    return {log: log.stat().st_size for log in logs.glob("*.log")}


def events_since(logs: Path, begin: Mapping[Path, int], event: str) -> list[dict[str, Any]]:
    """What the processes told under this name since the logs had these sizes."""
    found = []
    for log in sorted(logs.glob("*.log")):
        for line in lines_since(log, begin.get(log, 0), f'"{event}"'):
            document = json.loads(line)
            if document.get("event") == event:
                found.append(document)
    return found


async def owners(bootstrap: str, group: str) -> Owners:
    """Who has which partition, as the broker knows it. Raises KafkaError or OSError while it is away."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_MS)
    try:
        await admin.start()
        found: dict[tuple[str, int], str] = {}
        for response in await admin.describe_consumer_groups([group]):
            # Of a group the members come sixth; of a member its id is the first and its assignment the fifth.
            for member in (member for description in response.groups for member in description[5] if member[4]):
                assigned = ConsumerProtocolMemberAssignment.decode(member[4]).assignment
                found |= {(topic, number): member[0] for topic, numbers in assigned for number in numbers}
        return found
    finally:
        await admin.close()


def taken_over(before: Owners, after: Owners, process: str) -> tuple[int, int]:
    """How many partitions a process had, and how many of them another member has now.

    The broker makes the id of a member with a stable name of that name and a random part, so that a process that was
    thrown out and came back has another id and is still itself.
    """
    had = [place for place, member in before.items() if _is(member, process)]
    return len(had), sum(place in after and not _is(after[place], process) for place in had)


def _is(member: str, process: str) -> bool:
    return member.startswith(f"{process}-")


def felt_by_broker(restarts: int, refused: int) -> str:
    """What a full disk did to the broker, in words; empty: nothing. ``refused``: writes its log tells of."""
    parts = []
    if restarts:
        parts.append(f"it ended the broker {restarts} times")
    if refused:
        parts.append(f"the broker tells of {refused} failed writes")
    return "; ".join(parts)


def felt_by_clickhouse(failed_inserts: float) -> str:
    """What a full disk did to ClickHouse, in words; empty: nothing."""
    return f"{failed_inserts:.0f} inserts failed" if failed_inserts > 0 else ""
