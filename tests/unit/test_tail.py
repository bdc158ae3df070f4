"""Following a topic."""

from __future__ import annotations

import json

import pytest

from fairlane.adapters.memory_log import MemoryLog, MemoryReader
from fairlane.cli.tail import follow, public_topic
from fairlane.errors import Reject
from fairlane.ports import Outgoing

TOPIC = "t.decisions"


@pytest.fixture
def log() -> MemoryLog:
    log = MemoryLog()
    log.create_topics("t.")
    for number, tenant in enumerate(["acme", "other", "acme"]):
        value = {"tenant_id": tenant, "request_id": f"r-{number}", "stage": "gate", "kind": "admitted",
                 "reason": {"message": "because"}}  # fmt: skip
        log.append(Outgoing(TOPIC, f"{tenant}/r-{number}".encode(), json.dumps(value).encode()))
    return log


async def shown(log: MemoryLog, capsys: pytest.CaptureFixture[str], **changes: object) -> list[str]:
    arguments: dict[str, object] = {
        "tenant": None, "from_beginning": False, "count": None, "no_follow": True, "as_json": False, **changes,
    }  # fmt: skip
    await follow(MemoryReader(log), public_topic("decisions"), TOPIC, **arguments)  # type: ignore[arg-type]
    return capsys.readouterr().out.splitlines()


async def test_all_records_up_to_the_present_end_are_shown(log: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    lines = await shown(log, capsys)

    assert len(lines) == 3
    assert all(line.endswith("gate admitted: because") for line in lines)


async def test_only_records_of_the_tenant_are_shown(log: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(await shown(log, capsys, tenant="acme")) == 2


async def test_it_stops_after_the_number_asked_for(log: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(await shown(log, capsys, from_beginning=True, no_follow=False, count=2)) == 2


async def test_json_is_the_value_as_it_stands_in_the_log(log: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    values = [json.loads(line) for line in await shown(log, capsys, as_json=True)]

    assert {value["request_id"] for value in values} == {"r-0", "r-1", "r-2"}


def test_a_topic_may_be_named_with_its_prefix_and_internal_ones_are_refused() -> None:
    assert public_topic("fairlane.dead-letters").name == "dead-letters"
    with pytest.raises(Reject, match="there are requests, results"):
        public_topic("scheduler-state")
