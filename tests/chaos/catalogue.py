"""All faults by name, in the order in which they are run."""

from __future__ import annotations

from tests.chaos.fault import Fault
from tests.chaos.faults_disk import DISKS
from tests.chaos.faults_kill import KILLS
from tests.chaos.faults_link import LINKS
from tests.chaos.faults_members import MEMBERS
from tests.chaos.faults_pause import PAUSES

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*KILLS, *PAUSES, *LINKS, *MEMBERS, *DISKS)}
SHORT = ("kill-all", "kill-broker", "redis-slow")
"""What `make test` runs."""
