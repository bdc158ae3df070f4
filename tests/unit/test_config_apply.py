"""What is applied is what stands in the log; what is written is acknowledged or told to be not."""

from __future__ import annotations

import pytest

from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.agents.config_apply import read_applied, write_changes
from fairlane.agents.config_file import read_tenants_file
from fairlane.agents.config_plan import Plan, plan_tenants
from fairlane.errors import Retry
from fairlane.ports import Outgoing

THREE = "tenants: [{tenant_id: a}, {tenant_id: b}, {tenant_id: c, weight: 3}]"


async def plan_for(log: MemoryLog, text: str, *, prune: bool = False) -> Plan:
    applied = await read_applied(MemoryReader(log), "tenants", "catalog")
    file = read_tenants_file(text, "tenants.yaml")
    return plan_tenants(file, applied.fold.tenants, rewrite=applied.unreadable, prune=prune)


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topic("tenants", 1)
    log.create_topic("catalog", 1)
    return log


async def test_a_written_plan_is_what_is_applied_next(log: MemoryLog) -> None:
    written = await write_changes(await plan_for(log, THREE), "tenants", MemoryPublisher(log))
    assert [record.key for record in written] == [b"a", b"b", b"c"]
    applied = await read_applied(MemoryReader(log), "tenants", "catalog")
    assert applied.fold.tenants["c"].weight == 3
    assert applied.ends == {"tenants": 3, "catalog": 0}
    assert (await plan_for(log, THREE)).changes == ()


async def test_pruning_writes_tombstones(log: MemoryLog) -> None:
    await write_changes(await plan_for(log, THREE), "tenants", MemoryPublisher(log))
    plan = await plan_for(log, "tenants: [{tenant_id: a}]", prune=True)
    await write_changes(plan, "tenants", MemoryPublisher(log))
    assert [record.value for record in log.records("tenants")[3:]] == [None, None]
    assert set((await read_applied(MemoryReader(log), "tenants", "catalog")).fold.tenants) == {"a"}


async def test_a_missing_acknowledgement_is_told_with_the_count_and_the_next_apply_completes(log: MemoryLog) -> None:
    log.fail_next("send", Retry("no acknowledgement"), times=2)
    with pytest.raises(Retry, match="1 of 3 changes were acknowledged; apply the same file again"):
        await write_changes(await plan_for(log, THREE), "tenants", MemoryPublisher(log))
    plan = await plan_for(log, THREE)
    assert [change.key for change in plan.changes] == ["a", "b"]


async def test_an_unreadable_last_record_is_found_and_mended_by_the_same_file(log: MemoryLog) -> None:
    await write_changes(await plan_for(log, THREE), "tenants", MemoryPublisher(log))
    log.append(Outgoing("tenants", b"b", b"{"))
    applied = await read_applied(MemoryReader(log), "tenants", "catalog")
    assert applied.unreadable == {"b"}
    plan = await plan_for(log, THREE)
    assert [change.key for change in plan.changes] == ["b"]
    await write_changes(plan, "tenants", MemoryPublisher(log))
    assert (await read_applied(MemoryReader(log), "tenants", "catalog")).unreadable == frozenset()
