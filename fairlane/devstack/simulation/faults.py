"""The faults of a world: each at a time, on a process or a service, for a while. A seed draws a schedule of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from fairlane.devstack.simulation.stages import SESSION_MS, Member
from fairlane.devstack.simulation.virtual_loop import within
from fairlane.devstack.simulation.workload import Shape
from fairlane.devstack.simulation.world import Slot, World

SESSION_S = SESSION_MS / 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """``target`` is a process (``gate-0``), a stage (``gate``) or empty; what ``amount`` means depends on the kind."""

    at_s: float
    kind: str
    target: str = ""
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:7.3f} {self.kind} {self.target or '-'} {self.amount:.3f}"


def apply(world: World, fault: Fault) -> None:
    """Let it happen now."""
    world.note(f"fault: {fault.kind} {fault.target or '-'} {fault.amount:.3f}")
    KINDS[fault.kind](world, fault)


def _crash(world: World, fault: Fault) -> None:
    """kill -9 before the ``amount``-th callback from now: between any two awaits."""
    slot = world.slots[fault.target]
    member = slot.member
    if member is not None:
        member.process.died = lambda: world.kill(slot)
        member.process.fuse = member.process.steps + 1 + int(fault.amount)


def _crash_all(world: World, _fault: Fault) -> None:
    for slot in world.slots.values():
        world.kill(slot)


def _stop(world: World, fault: Fault) -> None:
    """SIGTERM: it drains and ends, and is started again."""
    member = world.slots[fault.target].member
    if member is not None and not member.process.frozen:
        member.stopping.set()


def _freeze(world: World, fault: Fault) -> None:
    """SIGSTOP for ``amount`` seconds, which may be longer than the lease, then SIGCONT."""
    slot = world.slots[fault.target]
    if slot.member is not None and not slot.member.process.frozen:
        _freeze_now(world, slot, slot.member, fault.amount)


def _freeze_sending(world: World, fault: Fault) -> None:
    """The same at its next write: the record stays in the process and leaves it when it goes on."""
    slot = world.slots[fault.target]
    member = slot.member
    if member is None:
        return

    def at_a_write() -> None:
        member.publisher.at_next_write = None
        if slot.member is member and not member.process.frozen:
            _freeze_now(world, slot, member, fault.amount)

    member.publisher.at_next_write = at_a_write


def _freeze_now(world: World, slot: Slot, member: Member, seconds: float) -> None:
    world.note(f"{slot.name} stands still")
    world.loop.freeze(member.process)
    member.consumer.vanish()
    world.takeover_faults += 1

    def go_on() -> None:
        if member.process.dead:
            return
        world.note(f"{slot.name} goes on")
        # Heartbeats go by themselves and come a little later than what the process does first.
        world.loop.call_later(world.rng.random() * 0.3, member.consumer.reappear)
        member.publisher.go_on()
        world.loop.thaw(member.process)

    with within(None):
        world.loop.call_later(seconds, go_on)


def _isolate(world: World, fault: Fault) -> None:
    """It runs, but its group does not hear from it for ``amount`` seconds."""
    member = world.slots[fault.target].member
    if member is None or member.process.frozen:
        return
    member.consumer.vanish()
    world.takeover_faults += 1

    def heard_again() -> None:
        if not member.process.dead and not member.process.frozen:
            member.consumer.reappear()

    world.loop.call_later(fault.amount, heard_again)


def _join(world: World, fault: Fault) -> None:
    """One more process of a stage for ``amount`` seconds."""
    name = f"{fault.target}-x{len(world.slots)}"
    slot = world.slots[name] = Slot(name, fault.target)
    world.start(slot)

    def leave() -> None:
        slot.wanted = False
        if slot.member is not None:
            slot.member.stopping.set()

    world.loop.call_later(fault.amount, leave)


def _ordered(operation: str) -> Callable[[World, Fault], None]:
    def order(world: World, fault: Fault) -> None:
        world.conditions.ordered[operation, fault.target] += max(1, int(fault.amount))
        world.takeover_faults += 1

    return order


def _empty_store(world: World, _fault: Fault) -> None:
    """FLUSHALL, or a Redis that starts without its data."""
    world.outside.store.empty()


def _clock(world: World, fault: Fault) -> None:
    """A process's wall clock is ``amount`` seconds off from now on, also after a restart."""
    world.slots[fault.target].clock.ahead_ms = int(fault.amount * 1000)


def _while(name: str, value: object, otherwise: object) -> Callable[[World, Fault], None]:
    def begin(world: World, fault: Fault) -> None:
        setattr(world.conditions, name, value)
        world.loop.call_later(fault.amount, setattr, world.conditions, name, otherwise)

    return begin


KINDS: dict[str, Callable[[World, Fault], None]] = {
    "crash": _crash,
    "crash-all": _crash_all,
    "stop": _stop,
    "freeze": _freeze,
    "freeze-sending": _freeze_sending,
    "isolate": _isolate,
    "join": _join,
    "clock": _clock,
    "lose-ack": _ordered("ack"),
    "lose-send": _ordered("send"),
    "lose-commit-answer": _ordered("commit"),
    "lose-store-answer": _ordered("store"),
    "lose-tables-answer": _ordered("tables"),
    "log-away": _while("log_away", True, False),
    "log-slow": _while("slow_s", 0.15, 0.0),
    "store-empty": _empty_store,
    "store-away": _while("store_away", True, False),
    "store-slow": _while("store_slow_s", 1.0, 0.0),
    "tables-away": _while("tables_away", True, False),
    "provider-slow": _while("provider", "slow", "well"),
    "provider-failing": _while("provider", "failing", "well"),
    "provider-hanging": _while("provider", "hanging", "well"),
    "provider-cutting": _while("provider", "cutting", "well"),
    "provider-broken": _while("provider", "broken", "well"),
}
"""Every kind of fault, and what it does."""

_COMMON = ("crash",) * 8 + (
    "freeze",
    "freeze",
    "freeze-sending",
    "freeze-sending",
    "stop",
    "isolate",
    "join",
    "join",
    "lose-ack",
    "lose-ack",
)
_RARE = tuple(kind for kind in KINDS if kind not in _COMMON)


def schedule(rng: random.Random, shape: Shape, faults: int, span_s: float) -> tuple[Fault, ...]:
    """Draw so many faults, spread over the time in which requests arrive and are answered."""
    counts = {
        "gate": shape.gates, "dispatcher": shape.dispatchers, "worker": shape.workers,
        "settle": shape.settles, "sinks": shape.sinks,
    }  # fmt: skip
    processes = [f"{stage}-{number}" for stage, count in counts.items() for number in range(count)]
    drawn = []
    for _ in range(faults):
        kind = rng.choice(_COMMON if rng.random() < 0.6 else _RARE)
        target, amount = rng.choice(processes), 0.0
        match kind:
            case "crash":
                amount = float(rng.randrange(60))
            case "freeze-sending":
                # A dispatcher's record that comes too late is void; a late result loses. Both must be seen.
                owners = [name for name in processes if name.startswith("dispatcher")]
                target = rng.choice(owners) if rng.random() < 0.5 else target
                amount = rng.uniform(0.7, 1.7) * SESSION_S
            case "freeze" | "isolate":
                amount = rng.choice((0.3, 1.0, 1.5, 2.0)) * SESSION_S * rng.uniform(0.7, 1.2)
            case "join":
                target = target.split("-", maxsplit=1)[0]
                amount = rng.uniform(0.2, 1.5)
            case "clock":
                amount = rng.choice((-20.0, -3.0, 3.0, 20.0))
            case "lose-ack" | "lose-send" | "lose-commit-answer" | "lose-store-answer":
                amount = float(rng.randrange(1, 4))
            case "lose-tables-answer":
                target, amount = "sinks-0", float(rng.randrange(1, 4))
            case "store-empty":
                target = ""
            case "log-away" | "log-slow" | "store-away" | "store-slow" | "tables-away":
                target, amount = "", rng.uniform(0.1, 1.2)
            case _ if kind.startswith("provider"):
                target, amount = "", rng.uniform(0.1, 1.0)
        drawn.append(Fault(rng.random() * span_s, kind, target, amount))
    return tuple(sorted(drawn, key=lambda fault: fault.at_s))
