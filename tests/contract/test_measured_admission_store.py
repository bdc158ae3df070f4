"""The measuring store behaves as the one inside it, and tells how long and how often it failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlane.adapters.measured_admission import MeasuredAdmissionStore
from fairlane.adapters.memory_admission import MemoryAdmissionStore
from fairlane.clock import ManualClock
from fairlane.errors import Retry
from fairlane.ports import Admission, AdmissionRequest
from fairlane.telemetry import NO_METRICS, PrometheusMetrics
from tests.contract.admission_store import AdmissionStoreBehaviour


class TestMeasuredAdmissionStore(AdmissionStoreBehaviour):
    """Around the reference model."""

    @pytest.fixture
    def store(self) -> MeasuredAdmissionStore:
        return MeasuredAdmissionStore(MemoryAdmissionStore(), ManualClock(), NO_METRICS)


class SlowStore(MemoryAdmissionStore):
    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.away = False

    async def admit(self, requests: Sequence[AdmissionRequest]) -> Sequence[Admission]:
        self.clock.advance(0.25)
        if self.away:
            raise Retry("the store is away")
        return await super().admit(requests)


async def test_round_trips_are_timed_and_failures_counted_apart() -> None:
    clock, metrics = ManualClock(), PrometheusMetrics(process_metrics=False)
    inner = SlowStore(clock)
    store = MeasuredAdmissionStore(inner, clock, metrics)
    await store.admit([])
    inner.away = True
    with pytest.raises(Retry):
        await store.admit([])
    families = text_string_to_metric_families(metrics.exposition().decode())
    samples = {s.name: s.value for family in families for s in family.samples if s.labels.get("operation") == "admit"}
    assert samples["fairlane_store_seconds_sum"] == 0.25
    assert samples["fairlane_store_seconds_count"] == 1
    assert samples["fairlane_store_failures_total"] == 1
