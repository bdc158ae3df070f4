"""Commands: what cannot be read is a dead letter, what finds nothing is told, and a takeover misses none."""

from __future__ import annotations

import pytest

from fairlane.agents.command_intake import CommandIntake
from fairlane.agents.dispatcher import Dispatcher
from fairlane.errors import Retry
from fairlane.metrics import METRICS
from fairlane.ports import Restored, TopicPartition
from fairlane.schemas.codec import encode
from fairlane.schemas.command import Command
from fairlane.telemetry import PrometheusMetrics
from tests.stage_harness import NAMES, World, config
from tests.unit import test_dispatcher
from tests.unit.test_dispatcher import LANES, bound, dispatching, eventually, finish, ids, job

KEPT_S = 86_400


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> PrometheusMetrics:
    names = [name for name in METRICS if name.startswith("dispatcher_")]
    metrics = PrometheusMetrics({name: METRICS[name] for name in names}, process_metrics=False)
    monkeypatch.setattr(test_dispatcher, "NO_METRICS", metrics)
    return metrics


def count(metrics: PrometheusMetrics, outcome: str) -> float:
    line = f'fairlane_dispatcher_commands_total{{outcome="{outcome}"}} '
    found = [row for row in metrics.exposition().decode().splitlines() if row.startswith(line)]
    return float(found[0].removeprefix(line)) if found else 0.0


def cancel(world: World, request_id: str) -> None:
    world.put(NAMES.commands, encode(Command(command="cancel", tenant_id="acme", request_id=request_id)))


def statuses(world: World) -> dict[str, str]:
    return {row["request_id"]: row["status"] for row in world.values(NAMES.results) if "request_id" in row}


@pytest.mark.parametrize(
    ("value", "code", "found"),
    [
        (b'{"command":"cancel","tenant_id":"acme","tenant_id":"other","request_id":"r"}', "invalid_json", (None, None)),
        (b"[]", "invalid_json", (None, None)),
        (b"nonsense", "invalid_json", (None, None)),
        (None, "invalid_json", (None, None)),
        (b'{"command":"cancel","tenant_id":"acme"}', "schema_violation", ("acme", None)),
        (
            b'{"schema":"fairlane.command.v1","command":"stop","tenant_id":"acme","request_id":"r-1"}',
            "schema_violation",
            ("acme", "r-1"),
        ),
    ],
)
async def test_what_is_no_command_becomes_one_dead_letter_with_its_reason(
    world: World,
    metrics: PrometheusMetrics,
    value: bytes | None,
    code: str,
    found: tuple[str | None, str | None],
) -> None:
    async with dispatching(world, config()):
        world.put(NAMES.commands, value)
        await eventually(lambda: len(world.values(NAMES.decisions)) == 1)
    # Whoever takes over reads the commands again, and sees that it was told.
    async with dispatching(world, config()):
        pass
    [letter] = world.values(NAMES.dead_letters)
    assert letter["dead_letter_id"] == f"{NAMES.commands}/0/0"
    assert letter["stage"] == "dispatcher"
    assert (letter["error"]["code"], letter["tenant_id"], letter["request_id"]) == (code, *found)
    assert letter["payload_bytes"] == len(value or b"")
    [decision] = world.values(NAMES.decisions)
    assert (decision["kind"], decision["reason"]["code"]) == ("dead_lettered", code)
    assert count(metrics, "unreadable") == 1


async def test_a_dead_letter_that_the_log_does_not_take_at_first_is_written_later(world: World) -> None:
    async with dispatching(world, config()):
        world.log.fail_next("send", Retry("no acknowledgement", after=0.001))
        world.put(NAMES.commands, b"nonsense")
        await eventually(lambda: len(world.values(NAMES.dead_letters)) == 1)


async def test_what_came_while_nobody_listened_is_told_by_the_next_owner(world: World) -> None:
    world.put(NAMES.commands, b"nonsense")
    async with dispatching(world, config()):
        await eventually(lambda: len(world.values(NAMES.dead_letters)) == 1)


async def test_only_the_owner_of_the_first_pool_writes_it(world: World) -> None:
    world.log.create_topics("test.", ["a-pool"])
    view = config()
    view = type(view)(
        **{name: getattr(view, name) for name in view.__slots__ if name != "pools"},
        pools={**view.pools, "a-pool": view.pools["sim"].model_copy(update={"pool": "a-pool"})},
    )
    async with dispatching(world, view) as feed:
        world.put(NAMES.commands, b"nonsense")
        await feed.settle()
        assert world.values(NAMES.dead_letters) == []
        # The first pool's owner reads again what came shortly before it.
        assert isinstance(feed.stage, Dispatcher)
        first = NAMES.lanes("a-pool")
        partitions = await world.reader.ends(first)
        await feed.stage.assigned({TopicPartition(first, number): Restored(0, 0) for number in partitions})
        assert len(world.values(NAMES.dead_letters)) == 1


async def test_what_becomes_of_a_cancellation_is_counted(world: World, metrics: PrometheusMetrics) -> None:
    for number in range(2):
        world.log.append(job(world, f"r-{number}"))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        for request_id in ("r-0", "r-1", "nobody"):
            cancel(world, request_id)
        await eventually(lambda: count(metrics, "kept") == 1)
        assert (count(metrics, "too_late"), count(metrics, "cancelled")) == (1, 1)
        assert count(metrics, "dropped") == 0
        world.clock.advance(KEPT_S + 1)
        await eventually(lambda: count(metrics, "dropped") == 1)
        # The same id is another request by now.
        world.log.append(job(world, "nobody"))
        finish(world, bound(world)[0])
        await feed.step()
        await eventually(lambda: "acme/nobody" in ids(bound(world)))


async def test_a_cancellation_sent_while_the_pool_had_no_owner_is_done_by_the_next(world: World) -> None:
    for number in range(3):
        world.log.append(job(world, f"r-{number}"))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
    world.clock.advance(5)
    cancel(world, "r-1")
    world.clock.advance(5)
    async with dispatching(world, config(slots=1), committed={TopicPartition(LANES, 0): 1}) as feed:
        await feed.step()
        await eventually(lambda: statuses(world) == {"r-1": "cancelled"})
        finish(world, bound(world)[0])
        await eventually(lambda: ids(bound(world)) == ["acme/r-0", "acme/r-2"])


async def test_a_takeover_does_a_cancellation_once(world: World, metrics: PrometheusMetrics) -> None:
    for number in range(2):
        world.log.append(job(world, f"r-{number}"))
    async with dispatching(world, config(slots=1)) as feed:
        await feed.step()
        cancel(world, "r-1")
        await eventually(lambda: statuses(world) == {"r-1": "cancelled"})
    for _ in range(2):
        async with dispatching(world, config(slots=1)) as feed:
            await feed.step()
    assert len([row for row in world.values(NAMES.results) if row.get("request_id") == "r-1"]) == 1
    assert (count(metrics, "cancelled"), count(metrics, "kept")) == (1, 0)


async def test_of_cancellations_that_found_nothing_only_the_latest_wait_for_their_requests(
    world: World, metrics: PrometheusMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlane.agents.command_intake.KEPT_MAX", 2)
    async with dispatching(world, config(slots=3)) as feed:
        for number in range(3):
            cancel(world, f"r-{number}")
        await eventually(lambda: count(metrics, "kept") == 3)
        assert count(metrics, "dropped") == 1
        for number in range(3):
            world.log.append(job(world, f"r-{number}"))
        await feed.step()
        assert ids(bound(world)) == ["acme/r-0"]
        assert statuses(world) == {"r-1": "cancelled", "r-2": "cancelled"}


async def test_of_dead_letters_written_here_only_the_latest_are_remembered(
    world: World, metrics: PrometheusMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairlane.agents.command_intake.KEPT_MAX", 2)
    intake = CommandIntake(
        names=NAMES,
        publisher=world.publisher,
        reader=world.reader,
        clock=world.clock,
        metrics=metrics,
        config_version=lambda: "t1-c1",
    )
    records = [world.put(NAMES.commands, b"nonsense") for _ in range(3)]
    for record in (*records, records[2], records[1], records[0]):
        await intake.take(record, (), speaks=True)
    assert [letter["source_offset"] for letter in world.values(NAMES.dead_letters)] == [0, 1, 2, 0]
