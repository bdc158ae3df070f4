"""A world of a seed: the services outside, the processes inside, and who starts the fallen again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.devstack.simulation.conditions import Conditions
from fairlane.devstack.simulation.log_twin import SimulatedLog
from fairlane.devstack.simulation.stages import GROUPS, NAMES, PREFIX, Member, Outside, SimulatedClock
from fairlane.devstack.simulation.virtual_loop import Process, VirtualLoop, within
from fairlane.devstack.simulation.workload import POOL, Arrival, Shape, config
from fairlane.errors import Fatal
from fairlane.ports import Outgoing, TopicPartition
from fairlane.schemas.topics import TOPICS
from fairlane.sinks.memory import MemoryWriter
from fairlane.streams import topology

PARTITIONS = {"lanes.{pool}": 3, "commands": 1, "dead-letters": 1, "tenants": 1, "catalog": 1, "scheduler-state": 1}
LINGER_S = 0.03
"""How long after a kill something may still arrive that the process had sent."""
RESTART_S = (0.1, 0.6)
"""What a supervisor takes to start a process again."""


class Slot:
    """A place for a process: what runs there now, and whether it should."""

    def __init__(self, name: str, stage: str) -> None:
        self.name = name
        self.stage = stage
        self.wanted = True
        self.member: Member | None = None
        self.clock = SimulatedClock()


class World:
    """Everything of one seed. Made and used inside its loop."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, shape: Shape) -> None:
        self.loop = loop
        self.rng = rng
        self.shape = shape
        self.conditions = Conditions(rng, shape.delay_s)
        self.log = SimulatedLog(SimulatedClock(), self.conditions)
        self.outside = Outside(
            shape,
            self.conditions,
            self.log,
            MemoryAdmissionStore(),
            MemoryWriter(),
            config(shape.slots, shape.weights, shape.cap),
        )
        self.trace: list[tuple[float, str]] = []
        self.bugs: list[str] = []
        self.takeover_faults = 0
        """How many faults may have made a process leave work begun behind."""
        for spec in TOPICS:
            name = spec.full_name(PREFIX, POOL if spec.per_pool else None)
            self.log.create_topic(name, PARTITIONS.get(spec.name, 2))
        self.slots: dict[str, Slot] = {}
        for stage, count in (
            ("gate", shape.gates),
            ("dispatcher", shape.dispatchers),
            ("worker", shape.workers),
            ("settle", shape.settles),
            ("sinks", shape.sinks),
        ):
            for number in range(count):
                self.slots[f"{stage}-{number}"] = Slot(f"{stage}-{number}", stage)

    def note(self, what: str) -> None:
        """Keep for the trace."""
        self.trace.append((self.loop.time(), what))

    # --- processes ----------------------------------------------------------------------------------

    def start(self, slot: Slot) -> None:
        """Start a process in a slot where none runs."""
        if not slot.wanted or slot.member is not None:
            return
        process = Process(slot.name)
        with within(process):
            member = Member(
                self.outside,
                topology.stage(slot.stage),
                process,
                slot.clock,
                instance=slot.name if self.shape.static_names else "",
            )
            task = self.loop.create_task(member.run())
        slot.member = member
        with within(None):
            task.add_done_callback(lambda ended: self._ended(slot, member, ended))
        self.note(f"{slot.name} starts")

    def _ended(self, slot: Slot, member: Member, task: asyncio.Task[None]) -> None:
        # Whatever tasks it left end with the process.
        self.loop.kill(member.process)
        slot.member = None
        failure = None if task.cancelled() else task.exception()
        self.note(f"{slot.name} ends: {failure!r}")
        if failure is not None and not isinstance(failure, Fatal):
            self.bugs.append(f"{slot.name} ended with {failure!r}")
        if failure is not None:
            self.takeover_faults += 1
        self.start_later(slot)

    def start_later(self, slot: Slot) -> None:
        """As a supervisor does."""
        if slot.wanted:
            self.loop.call_later(self.rng.uniform(*RESTART_S), self.start, slot)

    def kill(self, slot: Slot) -> None:
        """As kill -9 does."""
        member = slot.member
        if member is None:
            return
        self.note(f"{slot.name} is killed at step {member.process.steps}")
        slot.member = None
        member.publisher.cut_at = self.loop.time() + self.rng.random() * LINGER_S
        self.loop.kill(member.process)
        member.consumer.vanish()
        self.takeover_faults += 1
        self.start_later(slot)

    # --- running ------------------------------------------------------------------------------------

    async def run(self, arrivals: Sequence[Arrival], until_s: float) -> None:
        """Start everything, write what arrives, and return when all is done and quiet after ``until_s``."""
        for slot in self.slots.values():
            self.start(slot)
        for arrival in arrivals:
            self.loop.call_at(arrival.at_s, self._arrive, arrival)
        await asyncio.sleep(max(until_s, arrivals[-1].at_s if arrivals else 0.0))
        while not self.quiet():  # noqa: ASYNC110 - it is the state of all groups that is waited for
            await asyncio.sleep(0.1)
        self.note("quiet")

    def _arrive(self, arrival: Arrival) -> None:
        topic = NAMES.commands if arrival.cancels else NAMES.requests
        partition = 0 if arrival.cancels else self.rng.randrange(self.log.count(topic))
        self.log.write(Outgoing(topic, b"client", arrival.value, (), partition), "client")

    def quiet(self) -> bool:
        """Whether every group has committed everything there is, and the store knows it."""
        if not self.outside.store.filled:
            return False
        for spec in topology.STAGES:
            if spec is topology.SINKS and not self.shape.sinks:
                continue
            positions = self.log.group(spec.group(GROUPS)).positions
            for topic in spec.inputs:
                name = topic.full_name(PREFIX, POOL if topic.per_pool else None)
                for partition in range(self.log.count(name)):
                    tp = TopicPartition(name, partition)
                    end, position = self.log.bounds(tp)[1], positions.get(tp)
                    if end and (position is None or position.offset < end):
                        return False
        return True
