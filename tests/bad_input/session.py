"""A run of the corpus through a running chain, between good records, and what it found."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fairlane.schemas.topics import TOPICS
from tests.bad_input.case import Input, Kind, new_id, value
from tests.bad_input.corpus import cases
from tests.bad_input.judgement import fits, one_result, way_of_letter, way_of_result
from tests.bad_input.oracle import DEAD, QUIET, Ids, Oracle, Verdict, Way
from tests.bad_input.wire import Sent, Wire

PARTITIONS_OF = {topic.name: topic.partitions for topic in TOPICS}
PARTITIONS = PARTITIONS_OF["requests"]
AT_ONCE = 24
"""Inputs under way: enough to keep the gate busy, few enough that their own queue is no delay."""
GOOD_EVERY_S = 0.02
OUTCOME_S = 60.0
CANCELLED = Way("cancelled", "cancelled")


@dataclass
class Row:
    """What became of one kind."""

    kind: Kind
    plain: int = 0
    """Inputs sent as they were made."""
    mutated: int = 0
    """Inputs the fuzzer changed."""
    records: int = 0
    refused_by_broker: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    slowest_ms: int = 0
    good_slowest_ms: int = 0
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """The most memory a process of each stage had meanwhile."""
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Told:
    """A record, where it is, and what it must get."""

    item: Input
    sent: Sent
    verdict: Verdict


class Session:
    """Sends kinds one after another; keeps the good records flowing meanwhile."""

    def __init__(self, wire: Wire, seed: int) -> None:
        self._wire = wire
        self._seed = seed
        self._rng = random.Random(f"{seed}/good")
        self._partition = itertools.cycle(range(PARTITIONS))
        self._good: list[tuple[Sent, Verdict]] = []
        self._repeats: Counter[Ids | None] = Counter()
        self._good_total = 0

    @property
    def good_total(self) -> int:
        """Good records sent between the bad ones."""
        return self._good_total

    async def run(self, kind: Kind, count: int) -> Row:
        """Send a few plain inputs of a kind and ``count`` mutated ones, and judge what came of each."""
        row = Row(kind)
        told: list[_Told] = []
        gate = asyncio.Semaphore(AT_ONCE)

        def ended(done: asyncio.Task[list[_Told]]) -> None:
            gate.release()
            if not done.cancelled() and done.exception() is None:
                told.extend(done.result())

        self._good = []
        flowing = asyncio.create_task(self._keep_good_flowing())
        try:
            async with asyncio.TaskGroup() as group:
                for inputs in cases(kind, count, self._seed):
                    changed = any(item.mutated for item in inputs)
                    row.mutated, row.plain = row.mutated + changed, row.plain + (not changed)
                    await gate.acquire()
                    work = group.create_task(self._tell(inputs, next(self._partition)))
                    work.add_done_callback(ended)
        finally:
            flowing.cancel()
            await asyncio.gather(flowing, return_exceptions=True)
        await self._wire.until(lambda: all(map(self._ended, told)), OUTCOME_S)
        await self._judge_good(row)
        self._repeats = Counter(each.verdict.ids for each in told if each.verdict.repeats)
        for each in told:
            row.records += each.item.count
            self._judge(each, row)
        return row

    async def _tell(self, inputs: Sequence[Input], partition: int) -> list[_Told]:
        oracle, told = Oracle(), []
        verdicts = [_verdict(oracle, item) for item in inputs]
        cancelled = {verdict.ids for item, verdict in zip(inputs, verdicts, strict=True) if item.topic == "commands"}
        for item, verdict in zip(inputs, verdicts, strict=True):
            sent = await self._wire.send(item, partition % PARTITIONS_OF[item.topic])
            # It is too late to cancel a request that is at a worker already.
            either = verdict.accepted and verdict.ids in cancelled
            told.append(_Told(item, sent, replace(verdict, ways=verdict.ways | {CANCELLED}) if either else verdict))
        await self._wire.until(lambda: all(map(self._decided, told)), OUTCOME_S)
        return told

    async def _keep_good_flowing(self) -> None:
        for partition in itertools.cycle(range(PARTITIONS)):
            item = Input(value(self._rng, request_id=f"good-{new_id(self._rng)}"))
            self._good.append((await self._wire.send(item, partition), _verdict(Oracle(), item)))
            self._good_total += 1
            await asyncio.sleep(GOOD_EVERY_S)

    async def _judge_good(self, row: Row) -> None:
        seen, wire = self._wire.seen, self._wire
        done = await wire.until(
            lambda: all(
                wire.source(sent) in seen.decided_ms and verdict.ids in seen.results for sent, verdict in self._good
            ),
            OUTCOME_S,
        )
        if not done:
            row.wrong.append("a good record got no answer")
            return
        for sent, verdict in self._good:
            row.good_slowest_ms = max(row.good_slowest_ms, seen.decided_ms[wire.source(sent)] - sent.time_ms)
            assert verdict.ids is not None
            results = seen.results[verdict.ids]
            if len(results) != 1 or results[0]["status"] != "succeeded":
                row.wrong.append(f"a good record got {[result['status'] for result in results]}")

    def _decided(self, told: _Told) -> bool:
        """Whether the gate has answered every record of an input."""
        if told.sent.refused or told.item.topic != "requests":
            return True
        decided = self._wire.seen.decided_ms
        return all(self._wire.source(told.sent, delta) in decided for delta in range(told.item.count))

    def _ended(self, told: _Told) -> bool:
        if not self._decided(told):
            return False
        seen = self._wire.seen
        if told.item.topic == "commands":
            return Way(QUIET) in told.verdict.ways or self._wire.source(told.sent, topic="commands") in seen.letters
        if told.sent.refused or told.item.topic != "requests":
            return True
        return self._wire.source(told.sent) in seen.letters or told.verdict.ids in seen.results

    def _judge(self, told: _Told, row: Row) -> None:
        item, sent, wire, seen = told.item, told.sent, self._wire, self._wire.seen
        if sent.refused or item.refused_by_broker:
            row.refused_by_broker += 1
            row.ways["refused by the broker"] += 1
            if not (sent.refused and item.refused_by_broker):
                row.wrong.append(f"the broker {'refused' if sent.refused else 'took'} it: {item!r:.200}")
            return
        for delta in range(item.count):
            source = wire.source(sent, delta, item.topic)
            if item.topic == "requests" and source in seen.decided_ms:
                row.slowest_ms = max(row.slowest_ms, seen.decided_ms[source] - sent.time_ms)
            got, problem = self._got(source, told)
            again = "again " if told.verdict.repeats else ""
            row.ways[again + (f"{got.outcome} {got.code}" if got.code else got.outcome)] += 1
            if got.field:
                row.fields[got.field] += 1
            if problem or not fits(got, told.verdict):
                wanted = " or ".join(sorted(map(str, told.verdict.ways)))
                row.wrong.append(f"{problem or 'it'} got {got}, not {wanted}: {item!r:.300}")

    def _got(self, source: str, told: _Told) -> tuple[Way, str]:
        """What a record got, and what is wrong with it whatever it is."""
        seen = self._wire.seen
        letters, lanes = seen.letters.get(source, []), seen.lanes.get(source, [])
        own = seen.results_by_source.get(source, [])
        # Where the oracle reads no ids, the chain must not have read any.
        through = [result for ids in dict.fromkeys(lanes) for result in seen.results.get(ids, [])]
        results = seen.results.get(told.verdict.ids, []) if told.verdict.ids is not None else [*own, *through]
        if len(letters) > 1 or not one_result(results, self._repeats[told.verdict.ids]):
            return Way("twice"), f"{len(letters)} dead letters, {len(results)} results"
        if letters and (own or lanes):
            return Way("twice"), f"a dead letter, {len(own)} results and {len(lanes)} records in lanes"
        if letters:
            problem = "" if letters[0]["error"]["hint"] else "without a hint, it"
            return way_of_letter(letters[0]), problem
        if told.item.topic != "requests":
            return Way(QUIET), ""
        if not results:
            return Way("nothing"), ""
        failed = results[0]["error"]
        return way_of_result(results[0]), "without a hint, it" if failed and not failed["hint"] else ""


def _verdict(oracle: Oracle, item: Input) -> Verdict:
    if item.bomb:
        return Verdict(frozenset({Way(DEAD, "too_large")}))
    if item.topic == "requests":
        return oracle.judge(item.value)
    return oracle.judge_command(item.value) if item.topic == "commands" else Verdict(frozenset({Way(QUIET)}))
