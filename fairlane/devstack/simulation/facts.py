"""What stands in the log at the end of a run, and in which order it came, in plain values.

Read from the records alone, with the standard JSON parser: nothing here is shared with the stages, so
that a mistake of theirs is not repeated by those who check them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from fairlane.devstack.simulation.log_twin import Appended, Committed, History

Source = str
"""``topic/partition/offset``."""


class Entry(NamedTuple):
    """A record with its place in the order of all that happened on the broker."""

    place: int
    at_s: float
    source: Source
    """Where it stands itself."""
    made_from: Source
    key: str
    document: dict[str, Any]
    headers: dict[str, str]
    partition: int
    offset: int
    late: bool


class Asked(NamedTuple):
    """A record on requests. ``name`` is tenant/request, empty where none can be read."""

    entry: Entry
    name: str
    tenant: str
    body: str
    """The body in one spelling."""


@dataclass
class Facts:
    """The log by topic, in the order of appending. What is derived from it is derived once."""

    asked: list[Asked] = field(default_factory=list)
    lanes: list[Entry] = field(default_factory=list)
    inbox: list[Entry] = field(default_factory=list)
    results: list[Entry] = field(default_factory=list)
    attempts: list[Entry] = field(default_factory=list)
    decisions: list[Entry] = field(default_factory=list)
    dead_letters: list[Entry] = field(default_factory=list)
    commands: list[Entry] = field(default_factory=list)
    commits: list[tuple[int, Committed]] = field(default_factory=list)
    results_of: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    """By key, in the order of appending; a key has one partition, so the first one wins."""

    @property
    def asked_entries(self) -> list[Entry]:
        """The records on requests."""
        return [asked.entry for asked in self.asked]

    @cached_property
    def asked_at(self) -> Mapping[Source, Asked]:
        """What stands on requests, by where it stands."""
        return {asked.entry.source: asked for asked in self.asked}

    @cached_property
    def late_keys(self) -> Mapping[str, int]:
        """How many records came late that excuse a second call or result, by request.

        What a dispatcher sends late excuses nothing: it is void behind its successor's marker, and seen
        by the successor in front of it.
        """
        return Counter(entry.key for entry in (*self.lanes, *self.results) if entry.late)

    @cached_property
    def winners(self) -> Mapping[str, Entry]:
        """The result that counts, by key."""
        return {key: min(entries, key=lambda entry: entry.offset) for key, entries in self.results_of.items()}

    @cached_property
    def dispatches(self) -> Sequence[Entry]:
        """Inbox records that count: with a value, and with no higher epoch before them in their partition."""
        highest: dict[int, int] = defaultdict(int)
        valid: list[Entry] = []
        for entry in self.inbox:
            epoch = dispatch_of(entry)["epoch"]
            if epoch >= highest[entry.partition]:
                highest[entry.partition] = epoch
                if entry.document:
                    valid.append(entry)
        return valid

    @cached_property
    def cancels(self) -> Mapping[str, Sequence[Entry]]:
        """Commands to cancel, by the request they are about."""
        about: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.commands:
            if entry.document.get("command") == "cancel":
                about[f"{entry.document['tenant_id']}/{entry.document['request_id']}"].append(entry)
        return about

    @cached_property
    def settled(self) -> Mapping[int, Sequence[tuple[int, int]]]:
        """By partition of results how far settle was, and the place at which it had said so, ascending."""
        reached: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, commit in self.commits:
            for tp, position in commit.positions.items() if commit.group.endswith("settle") else ():
                known = reached[tp.partition]
                if not known or known[-1][0] < position.offset:
                    known.append((position.offset, place))
        return reached


def facts_of(history: History, prefix: str, pool: str) -> Facts:
    """Sort a history by topic."""
    facts = Facts()
    lists = {
        f"{prefix}lanes.{pool}": facts.lanes,
        f"{prefix}inbox.{pool}": facts.inbox,
        f"{prefix}results": facts.results,
        f"{prefix}attempts": facts.attempts,
        f"{prefix}decisions": facts.decisions,
        f"{prefix}dead-letters": facts.dead_letters,
        f"{prefix}commands": facts.commands,
    }
    for place, event in enumerate(history):
        if isinstance(event, Committed):
            facts.commits.append((place, event))
            continue
        topic = event.record.topic
        if topic == f"{prefix}requests":
            facts.asked.append(_asked(_entry(place, event)))
        elif (entries := lists.get(topic)) is not None:
            entries.append(_entry(place, event))
    for result in facts.results:
        facts.results_of[result.key].append(result)
    return facts


def by_source(entries: Iterable[Entry]) -> dict[Source, list[Entry]]:
    """Entries by what they were made from."""
    grouped: dict[Source, list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[entry.made_from].append(entry)
    return grouped


def dispatch_of(inbox: Entry) -> Mapping[str, int]:
    """The epoch of the dispatcher that wrote an inbox record, and when it did by its clock."""
    header: Mapping[str, int] = json.loads(inbox.headers["fairlane-dispatch"])
    return header


def _entry(place: int, event: Appended) -> Entry:
    record = event.record
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    return Entry(
        place,
        event.at_s,
        f"{record.topic}/{record.partition}/{record.offset}",
        headers.get("fairlane-source", ""),
        (record.key or b"").decode(),
        _document(record.value),
        headers,
        record.partition,
        record.offset,
        event.late,
    )


def _document(value: bytes | None) -> dict[str, Any]:
    try:
        document = json.loads(value or b"null")
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _asked(entry: Entry) -> Asked:
    tenant, request = entry.document.get("tenant_id"), entry.document.get("request_id")
    named = isinstance(tenant, str) and isinstance(request, str)
    body = json.dumps(entry.document.get("body"), sort_keys=True)
    return Asked(entry, f"{tenant}/{request}" if named else "", str(tenant), body)
