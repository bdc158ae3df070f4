"""All faults by name, in the order in which they are run."""

from __future__ import annotations

from tests.chaos.fault import Fault
from tests.chaos.faults_kill import KILLS

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*KILLS,)}
SHORT = ("kill-all",)
"""What `make test` runs."""
