"""The replay sends on time whatever becomes of it; the observer counts what comes back."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.clock import SystemClock
from fairlane.devstack.demo.live_view import LiveView, Moment, plain, table
from fairlane.devstack.demo.observer import Observer, TenantLine, read_terminals
from fairlane.devstack.demo.replay import Replay
from fairlane.devstack.demo.workload import DemoTenant, PlannedRequest
from fairlane.errors import Poison, Retry
from fairlane.ports import Outgoing
from fairlane.schemas.codec import encode
from fairlane.schemas.result import Cost, Result, Status, Timings, Usage
from fairlane.schemas.topics import request_key

LIGHT, FLOODER = DemoTenant("light", "auto"), DemoTenant("flooder", "auto", rate=100)
PLAN = [
    PlannedRequest(0.0, FLOODER, "r-0", 10, 5),
    PlannedRequest(0.001, LIGHT, "r-1", 10, 5),
    PlannedRequest(0.02, FLOODER, "r-2", 10, 5),
]
NOW = datetime(2026, 11, 20, 18, 0, tzinfo=UTC)


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topics("t.")
    return log


def replay(log: MemoryLog) -> Replay:
    return Replay(MemoryPublisher(log), "t.requests", PLAN, SystemClock())


async def test_every_planned_request_is_sent_and_none_before_its_time(log: MemoryLog) -> None:
    run = replay(log)

    await run.run(asyncio.Event())

    assert sorted(run.sent) == [("flooder", "r-0"), ("flooder", "r-2"), ("light", "r-1")]
    assert run.asked == {"flooder": 2, "light": 1}
    records = sorted(log.records("t.requests"), key=lambda record: json.loads(record.value or b"")["request_id"])
    assert records[2].timestamp_ms - run.started_ms >= 17
    assert [record.key for record in records] == [b"flooder/r-0", b"light/r-1", b"flooder/r-2"]


async def test_a_request_without_acknowledgement_is_unsure_and_the_replay_goes_on(log: MemoryLog) -> None:
    log.fail_next("ack", Retry("no acknowledgement in time"))
    run = replay(log)

    await run.run(asyncio.Event())

    assert run.unsure == {("flooder", "r-0")}
    assert len(run.sent) == 2
    assert len(log.records("t.requests")) == 3


async def test_a_request_that_can_never_be_sent_ends_the_replay(log: MemoryLog) -> None:
    log.fail_next("send", Poison("above the limit"))

    with pytest.raises(Poison):
        await replay(log).run(asyncio.Event())


async def test_a_replay_told_to_stop_sends_nothing_more(log: MemoryLog) -> None:
    stopping = asyncio.Event()
    stopping.set()
    run = replay(log)

    await run.run(stopping)

    assert run.sent == []


def write_decision(log: MemoryLog, tenant: str, request: str, kind: str, waited_ms: int | None = None) -> None:
    attributes = {} if waited_ms is None else {"waited_ms": str(waited_ms)}
    value = {"tenant_id": tenant, "request_id": request, "kind": kind, "attributes": attributes}
    log.append(Outgoing("t.decisions", request_key(tenant, request), json.dumps(value).encode()))


def write_result(
    log: MemoryLog, tenant: str, request: str, status: Status, *, tokens: int = 0, dispatched: bool = False
) -> None:
    admitted = NOW if dispatched else None
    timings = Timings(
        received_at=NOW, admitted_at=admitted, dispatched_at=admitted, completed_at=NOW + timedelta(seconds=1)
    )
    result = Result(
        request_id=request, tenant_id=tenant, status=status, usage=Usage(input_tokens=tokens),
        cost=Cost(nano_usd=tokens * 100), timings=timings, config_version="t1-c1",
    )  # fmt: skip
    log.append(Outgoing("t.results", request_key(tenant, request), encode(result)))


async def observed(log: MemoryLog, observer: Observer, terminals: int) -> list[TenantLine]:
    task = asyncio.create_task(observer.run())
    try:
        async with asyncio.timeout(5):
            while observer.terminals < terminals or any(not line.wait_p99_ms for line in observer.lines({})[:1]):
                await log.wait(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return observer.lines({"flooder": 4, "light": 1})


async def test_the_observer_knows_who_waits_who_is_served_and_what_it_costs(log: MemoryLog) -> None:
    write_result(log, "flooder", "old", Status.SUCCEEDED, tokens=999)
    observer = Observer(MemoryReader(log), "t.", ["flooder", "light"], SystemClock())
    await observer.start()
    for number in range(3):
        write_decision(log, "flooder", f"r-{number}", "admitted")
    write_decision(log, "light", "r-9", "admitted")
    write_decision(log, "light", "r-9", "dispatched", 7)
    for number in (0, 1):
        write_decision(log, "flooder", f"r-{number}", "dispatched", 1000 + number)
    write_result(log, "flooder", "r-0", Status.SUCCEEDED, tokens=30, dispatched=True)
    write_result(log, "light", "r-9", Status.SUCCEEDED, tokens=10, dispatched=True)
    write_result(log, "flooder", "r-8", Status.REJECTED)

    flooder, light = await observed(log, observer, 3)

    assert (flooder.requests, flooder.waiting, flooder.in_flight) == (4, 1, 1)
    assert (flooder.succeeded, flooder.refused, flooder.share, flooder.cost_nano_usd) == (1, 1, 0.75, 3000)
    assert (flooder.wait_p50_ms, flooder.wait_p99_ms) == (1000, 1001)
    assert (light.requests, light.waiting, light.in_flight, light.wait_p99_ms) == (1, 0, 0, 7)


async def test_the_log_is_read_again_for_the_verdict_duplicates_and_all(log: MemoryLog) -> None:
    starts = await MemoryReader(log).ends("t.results")
    for _ in range(2):
        write_result(log, "light", "r-1", Status.SUCCEEDED, tokens=30, dispatched=True)

    terminals = await read_terminals(MemoryReader(log), "t.results", starts)

    assert [(item.key, item.cost_nano_usd, item.offset) for item in terminals] == [
        (("light", "r-1"), 3000, 0),
        (("light", "r-1"), 3000, 1),
    ]
    assert terminals[0].completed_ms - terminals[0].received_ms == 1000


LINE = TenantLine("flooder", 1200, 300, 32, 800, 68, 4321.0, 6789.0, 0.9, 12_345_678)


def test_plain_lines_hold_every_figure_with_its_unit() -> None:
    headline, columns, row = plain(Moment("12.0 s", [LINE]))

    assert headline == "12.0 s"
    assert columns.split()[:3] == ["tenant", "requests", "waiting"]
    assert row.split() == ["flooder", "1,200", "300", "32", "800", "68", "4.32", "s", "6.79", "s", "90.0%", "$0.0123"]


def test_the_table_of_a_terminal_has_a_row_for_each_tenant() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=140, _environ={"TERM": "xterm"})

    console.print(table(Moment("12.0 s", [LINE]), "flooder"))

    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert "flooder" in shown
    assert "6.79 s" in shown


@pytest.mark.parametrize("terminal", [True, False])
async def test_the_view_shows_the_last_moment_before_it_ends(terminal: bool) -> None:
    console = Console(file=StringIO(), force_terminal=terminal, width=140, _environ={"TERM": "xterm"})
    stopping, moments = asyncio.Event(), iter(["first", "last"])

    def moment() -> Moment:
        stopping.set()
        return Moment(next(moments), [LINE])

    await LiveView(console, moment, "flooder").run(stopping)

    assert isinstance(console.file, StringIO)
    assert "last" in console.file.getvalue()
