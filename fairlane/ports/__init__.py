"""The seams of the system: what agents, sinks and engines need from the outside world.

Each port has one behaviour suite in ``tests/contract`` that every implementation passes. A
docstring says what blocks, what raises and who calls. Values are plain: agents never see Kafka,
Redis, HTTP or ClickHouse types.
"""

from __future__ import annotations

from fairlane.ports.admission import (
    Admission,
    AdmissionOutcome,
    AdmissionRequest,
    AdmissionStore,
    Answered,
    Joined,
    Known,
    RestorableStore,
    Restoration,
    Settled,
    Settlement,
    StoreEmptied,
    TenantUsage,
    Waiting,
)
from fairlane.ports.log import (
    Bounds,
    LogConsumer,
    LogReader,
    Outgoing,
    OwnershipLost,
    Position,
    Publisher,
    RebalanceListener,
    Record,
    TopicPartition,
)
from fairlane.ports.provider import Call, Completion, Delta, Provider, ProviderError
from fairlane.ports.stage import Done, Engine, Restored, Stage

__all__ = [
    "Admission",
    "AdmissionOutcome",
    "AdmissionRequest",
    "AdmissionStore",
    "Answered",
    "Bounds",
    "Call",
    "Completion",
    "Delta",
    "Done",
    "Engine",
    "Joined",
    "Known",
    "LogConsumer",
    "LogReader",
    "Outgoing",
    "OwnershipLost",
    "Position",
    "Provider",
    "ProviderError",
    "Publisher",
    "RebalanceListener",
    "Record",
    "RestorableStore",
    "Restoration",
    "Restored",
    "Settled",
    "Settlement",
    "Stage",
    "StoreEmptied",
    "TenantUsage",
    "TopicPartition",
    "Waiting",
]
