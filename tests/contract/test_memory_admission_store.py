"""The in-memory admission store behaves as the port says."""

from __future__ import annotations

import pytest

from fairlane.adapters.memory_admission import MemoryAdmissionStore
from tests.contract.admission_store import AdmissionStoreBehaviour
from tests.contract.restorable_store import Empty, RestorableStoreBehaviour


class TestMemoryAdmissionStore(AdmissionStoreBehaviour, RestorableStoreBehaviour):
    """On the reference model."""

    @pytest.fixture
    def store(self) -> MemoryAdmissionStore:
        return MemoryAdmissionStore()

    @pytest.fixture
    def empty(self, store: MemoryAdmissionStore) -> Empty:
        async def forget() -> None:
            store.empty()

        return forget
