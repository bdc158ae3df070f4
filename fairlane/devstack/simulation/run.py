"""One seed: its plan, its run, and what the checker says."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import structlog

from fairlane.devstack.simulation.books import Books, Disturbance
from fairlane.devstack.simulation.checker import check
from fairlane.devstack.simulation.facts import facts_of
from fairlane.devstack.simulation.faults import Fault, apply, schedule
from fairlane.devstack.simulation.log_twin import Committed, History
from fairlane.devstack.simulation.stages import NAMES, PREFIX
from fairlane.devstack.simulation.virtual_loop import Stuck, VirtualLoop
from fairlane.devstack.simulation.workload import POOL, PRICES, TENANTS, Arrival, Shape, backlog, mixed
from fairlane.devstack.simulation.world import World
from fairlane.sinks.tables import TABLES

SPAN_S = 1.5
"""In this time requests arrive and faults happen; what they lead to takes longer."""
UNTIL_S = 90.0
"""After this nothing may be left to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides before the run."""

    seed: int
    shape: Shape
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]
    interleave: bool
    fair: bool
    """Whether all tenants keep waiting, so that their shares can be judged."""


@dataclass(slots=True)
class Outcome:
    """What became of a plan."""

    seed: int
    violations: list[str]
    figures: Counter[str]
    virtual_s: float = 0.0
    fingerprint: str = ""
    """Of the whole history: the same for the same plan, always."""
    story: list[str] = field(default_factory=list)
    """Line by line what happened, if it was asked for."""


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    fair = rng.random() < 0.15
    shape = Shape(
        gates=rng.choice((1, 1, 2)),
        dispatchers=rng.choice((1, 2, 2)),
        workers=rng.choice((1, 2, 2)),
        settles=rng.choice((1, 1, 2)),
        sinks=rng.choice((0, 1)),
        slots=rng.choice((1, 2, 4, 8)) if not fair else rng.choice((1, 2, 3)),
        weights=tuple(float(rng.choice((1, 1, 2, 4))) for _ in TENANTS),
        cap=rng.choice((4, 100, 100)) if not fair else 100,
        static_names=rng.random() < 0.5,
        delay_s=rng.choice((0.001, 0.01, 0.04)),
        window=rng.choice((4, 50)) if not fair else 50,
        batch=rng.choice((3, 20)),
        sink_rows=rng.choice((2, 5, 20)),
    )
    # Many small worlds find more in the same time than few large ones; some things happen in large ones only.
    size = (30, 50) if fair else (8, 20) if rng.random() < 0.75 else (20, 40)
    requests = rng.randrange(*size)
    arrivals = backlog(rng, requests, SPAN_S) if fair else mixed(rng, requests, SPAN_S)
    faults = () if fair or rng.random() < 0.05 else schedule(rng, shape, rng.randrange(1, 6), SPAN_S)
    return Plan(seed, shape, tuple(arrivals), faults, rng.random() < 0.7, fair)


@dataclass(slots=True)
class Lived:
    """What a run left behind."""

    history: History
    trace: list[tuple[float, str]]
    books: Books
    broken: list[str]
    virtual_s: float


def simulate(todo: Plan, *, tell: bool = False, fingerprint: bool = True) -> Outcome:
    """Run a plan in a world of its own and check it. The same plan gives the same outcome, byte by byte."""
    try:
        with _uninterrupted():
            lived = live(todo)
    except Stuck as failure:
        return Outcome(todo.seed, [f"stuck: {failure}"], Counter())
    findings = check(facts_of(lived.history, PREFIX, POOL), lived.books)
    lines = list(_lines(lived)) if tell or fingerprint else []
    return Outcome(
        todo.seed,
        [*lived.broken, *findings.violations],
        findings.figures,
        lived.virtual_s,
        hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest() if lines else "",
        lines if tell else [],
    )


def live(todo: Plan) -> Lived:
    """Run a plan, without judging it. Raises :class:`Stuck` where it spins."""
    with quiet(), _own_chance(todo.seed):
        rng = random.Random(f"{todo.seed} runs")
        loop = VirtualLoop(rng, interleave=todo.interleave, until_s=UNTIL_S + 10)
        try:
            lived: Lived = loop.run_until_complete(_live(todo, loop, rng))
        finally:
            loop.close()
    return lived


async def _live(todo: Plan, loop: VirtualLoop, rng: random.Random) -> Lived:
    world, broken = World(loop, rng, todo.shape), list[str]()
    for fault in todo.faults:
        loop.call_at(fault.at_s, apply, world, fault)
    last_s = max((fault.at_s for fault in todo.faults), default=0.0)
    try:
        async with asyncio.timeout(UNTIL_S):
            await world.run(todo.arrivals, last_s)
    except TimeoutError:
        broken.append(f"stuck: not everything was done after {UNTIL_S:g} s")
    broken += [f"bug: {bug}" for bug in (*world.bugs, *loop.failures)]
    outside = world.outside
    usage = await outside.store.usage(TENANTS)
    books = Books(
        usage=dict(zip(TENANTS, usage, strict=True)),
        calls=outside.calls,
        tables={table.name: outside.tables.named(table) for table in TABLES} if todo.shape.sinks else None,
        slots=todo.shape.slots,
        groups=world.log.count(NAMES.inbox(POOL)),
        tenants=frozenset(TENANTS),
        prices=PRICES,
        cap=todo.shape.cap,
        window=todo.shape.window,
        disturbances=[Disturbance(fault.at_s, fault.kind, fault.target, fault.amount) for fault in todo.faults],
        weights=dict(zip(TENANTS, todo.shape.weights, strict=True)) if todo.fair else None,
    )
    return Lived(world.log.history, list(world.trace), books, broken, loop.time())


def _lines(lived: Lived) -> Iterator[str]:
    events: list[tuple[float, int, str]] = []
    for order, (at_s, what) in enumerate(lived.trace):
        events.append((at_s, order, what))
    for order, event in enumerate(lived.history):
        if isinstance(event, Committed):
            positions = ", ".join(f"{t.topic}/{t.partition}={p.offset}" for t, p in sorted(event.positions.items()))
            text = f"{event.member} commits {positions}"
        else:
            record = event.record
            text = (
                f"{event.writer} writes {record.topic}/{record.partition}/{record.offset} "
                f"{(record.key or b'').decode()}{' LATE' if event.late else ''} {_short(record.value)} {record.headers}"
            )
        events.append((event.at_s, order, text))
    for at_s, _, text in sorted(events, key=lambda event: event[0]):
        yield f"{at_s:9.4f} {text}"


def _short(value: bytes | None) -> str:
    return "null" if value is None else f"{len(value)}:{hashlib.blake2b(value, digest_size=4).hexdigest()}"


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is logged in here. Costs as much as a part of a run: many runs may share one."""
    level = logging.root.manager.disable
    if level >= logging.CRITICAL:
        yield
        return
    settings = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        structlog.configure(**settings)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C is heard when the world has ended: within it half of a step would be left behind. Twice, at once."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) > 1:
            signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@contextmanager
def _own_chance(seed: int) -> Iterator[None]:
    """Libraries draw from the global generator (retries with jitter): theirs is the seed's in here.

    Collecting garbage is put off: a coroutine of a killed process must not be torn down at a moment
    that depends on memory.
    """
    state, collecting = random.getstate(), gc.isenabled()
    random.seed(seed)
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        random.setstate(state)
