"""All faults by name, in the order in which they are run."""

from __future__ import annotations

from tests.chaos.fault import RECOVERY_BOUND_S, UNACKNOWLEDGED_BAR, Fault
from tests.chaos.faults_disk import DISKS
from tests.chaos.faults_kill import KILLS, kill_all, kill_service
from tests.chaos.faults_link import LINKS, trouble
from tests.chaos.faults_members import MEMBERS
from tests.chaos.faults_pause import PAUSES
from tests.chaos.faulty_link import Trouble

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*KILLS, *PAUSES, *LINKS, *MEMBERS, *DISKS)}
SHORT = Fault(
    "short", "kill -9 of all stage processes, Redis 2 s late, kill -9 of the broker, one after the other",
    (kill_all, trouble("redis", Trouble(delay_s=2.0), 5.0), kill_service("kafka")), recovery_bar_s=RECOVERY_BOUND_S,
    unacknowledged_bar=UNACKNOWLEDGED_BAR,
)  # fmt: skip
"""What `make test` runs. It counts; how fast a busy machine recovers is the affair of `make chaos`."""
