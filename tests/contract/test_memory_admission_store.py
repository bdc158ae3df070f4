"""The in-memory admission store behaves as the port says."""

from __future__ import annotations

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from tests.contract.admission_store import AdmissionStoreBehaviour


class TestMemoryAdmissionStore(AdmissionStoreBehaviour):
    """On the reference model."""

    @pytest.fixture
    def store(self) -> MemoryAdmissionStore:
        return MemoryAdmissionStore()
