"""The supervisor, with small processes that listen on a port instead of services and stages."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fairlane.devstack.identity import identify
from fairlane.devstack.log_file import tail
from fairlane.devstack.port_choice import FREE_RANGE, HOST, PortPool, bindable
from fairlane.devstack.process import Launch, start
from fairlane.devstack.running import clear_leftovers
from fairlane.devstack.state import ProcessState, StackState, load_state
from fairlane.devstack.supervisor import EARLY_FAILURES, ProcessSpec, Step, Supervisor
from fairlane.errors import Fatal
from tests.integration import small_stack
from tests.integration.small_stack import listener_launch

BOUND_S = 30.0


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def report(told: list[tuple[str, str]]) -> Callable[..., None]:
    return lambda part, message, *, done=False: told.append((part, message))


def listener(name: str, pool: PortPool, **more: object) -> ProcessSpec:
    return ProcessSpec(name, lambda kept: listener_launch(kept or pool.choose(0)), **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in other processes)
            await asyncio.sleep(0.02)


def gone(pid: int) -> bool:
    return identify(pid) is None


async def test_processes_start_after_what_they_need_and_stop_before_it(
    tmp_path: Path, report: Callable[..., None], told: list[tuple[str, str]]
) -> None:
    pool = PortPool(free=True)
    happened: list[str] = []

    async def step() -> None:
        happened.append("step")

    supervisor = Supervisor(
        [
            listener("stage", pool, after=("tables", "service"), stage="stage", stop_rank=0),
            listener("service", pool, stop_rank=1),
        ],
        [Step("tables", step, after=("service",))],
        tmp_path, report, {"given": "http://elsewhere"}, {},
    )  # fmt: skip
    stopping = asyncio.Event()
    await supervisor.run(stopping, stopping.set)
    order = [(part, message.split()[0]) for part, message in told]
    assert order.index(("service", "ready")) < order.index(("tables", "done")) < order.index(("stage", "starting"))
    assert order.index(("stage", "stopped")) < order.index(("service", "stopping"))
    assert happened == ["step"]
    state = load_state(tmp_path)
    assert state is not None
    assert (state.phase, state.processes) == ("down", ())
    assert set(state.ports) == {"stage", "service"}
    assert state.addresses["given"] == "http://elsewhere"
    assert all(bindable(port) for port in state.ports.values())


async def test_a_killed_process_is_restarted_at_its_port_and_the_others_stay(
    tmp_path: Path, report: Callable[..., None]
) -> None:
    pool = PortPool(free=True)
    supervisor = Supervisor(
        [listener("one", pool), listener("two", pool)], [], tmp_path, report, {}, {}
    )  # fmt: skip
    stopping, up = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(supervisor.run(stopping, up.set))

    def seen() -> dict[str, ProcessState]:
        state = load_state(tmp_path)
        return {process.name: process for process in state.processes} if state is not None else {}

    await until(up.is_set)
    before = seen()
    os.kill(before["one"].identity.pid, signal.SIGKILL)
    await until(lambda: seen()["one"].restarts == 1 and seen()["one"].ready)
    after = seen()
    assert after["one"].identity != before["one"].identity
    assert after["one"].port == before["one"].port
    assert after["two"] == before["two"]
    stopping.set()
    await running
    assert gone(after["one"].identity.pid)
    assert gone(after["two"].identity.pid)


async def test_a_process_that_hangs_is_killed_and_started_again(
    tmp_path: Path, report: Callable[..., None], told: list[tuple[str, str]]
) -> None:
    pool = PortPool(free=True)

    def build(kept: int) -> Launch:
        launch = listener_launch(kept or pool.choose(0))

        async def alive() -> bool:
            # Its kernel takes the connection; only the process itself would go on from there.
            return psutil.Process(pids()["one"]).status() != psutil.STATUS_STOPPED

        return replace(launch, alive=alive)

    def pids() -> dict[str, int]:
        state = load_state(tmp_path)
        return {process.name: process.identity.pid for process in state.processes} if state is not None else {}

    spec = ProcessSpec("one", build, hang_timeout_s=0.6)
    supervisor = Supervisor([spec], [], tmp_path, report, {}, {})
    stopping, up = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(supervisor.run(stopping, up.set))
    await until(up.is_set)
    first = pids()["one"]
    os.kill(first, signal.SIGSTOP)
    await until(lambda: gone(first) and pids().get("one", first) != first)
    assert any("hangs: no answer for" in message for _, message in told)
    stopping.set()
    await running
    assert gone(pids().get("one", first))


async def test_a_port_lost_to_another_program_is_replaced(tmp_path: Path, report: Callable[..., None]) -> None:
    taken = await asyncio.start_server(lambda _r, w: w.close(), HOST, 0)
    lost = taken.sockets[0].getsockname()[1]
    ports = iter([lost, PortPool(free=True).choose(0)])
    # Whoever holds the port answers on it; only the owner of the socket tells the two apart.
    spec = ProcessSpec("service", lambda kept: listener_launch(next(ports)))
    stopping = asyncio.Event()
    await Supervisor([spec], [], tmp_path, report, {}, {}).run(stopping, stopping.set)
    taken.close()
    state = load_state(tmp_path)
    assert state is not None
    assert state.ports["service"] != lost


async def test_a_process_that_never_gets_ready_fails_the_stack_and_takes_the_rest_down(
    tmp_path: Path, report: Callable[..., None]
) -> None:
    pool = PortPool(free=True)
    starts: list[int] = []

    def broken(_kept: int) -> Launch:
        starts.append(1)
        launch = listener_launch(pool.choose(0))
        return replace(launch, argv=[sys.executable, "-c", "raise SystemExit('no such thing')"])

    supervisor = Supervisor(
        [listener("good", pool), ProcessSpec("bad", broken)], [], tmp_path, report, {}, {}
    )  # fmt: skip
    with pytest.raises(Fatal, match=r"(?s)bad ended with exit code 1 .*bad\.log.*no such thing"):
        await supervisor.run(asyncio.Event())
    assert len(starts) == EARLY_FAILURES
    state = load_state(tmp_path)
    assert state is not None
    assert state.phase == "failed"
    assert "no such thing" in state.failure
    assert state.processes == ()


def niceness_of_session(pid: int) -> int | None:
    """None where the kernel does not share the cores between sessions."""
    group = Path(f"/proc/{pid}/autogroup")
    return int(group.read_text().split()[-1]) if group.exists() else None


async def test_a_process_makes_room_for_others_as_far_as_its_launch_says(tmp_path: Path) -> None:
    pool = PortPool(free=True)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    for nice in (0, 7):
        launch = replace(listener_launch(pool.choose(0)), nice=nice)
        child = start(launch, tmp_path / "log")
        try:
            await child.wait_ready(launch, "listener", 30.0)
            assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(19, ours + nice)
            assert niceness_of_session(child.pid) in (nice, None)
        finally:
            child.kill()
            await child.ended()


async def test_a_failed_step_fails_the_stack(tmp_path: Path, report: Callable[..., None]) -> None:
    async def refuse() -> None:
        raise Fatal("the broker refuses")

    supervisor = Supervisor([], [Step("topics", refuse)], tmp_path, report, {}, {})
    with pytest.raises(Fatal, match="the broker refuses"):
        await supervisor.run(asyncio.Event())


async def test_a_process_that_ignores_sigterm_is_killed_after_its_bound(
    tmp_path: Path, report: Callable[..., None], told: list[tuple[str, str]]
) -> None:
    pool = PortPool(free=True)
    spec = ProcessSpec("deaf", lambda _: listener_launch(pool.choose(0), "--deaf"), stop_timeout_s=0.2)
    stopping = asyncio.Event()
    await Supervisor([spec], [], tmp_path, report, {}, {}).run(stopping, stopping.set)
    assert [message for part, message in told if part == "deaf"][-1].startswith("killed")


async def test_a_second_stop_does_not_wait_for_what_is_in_flight(tmp_path: Path, report: Callable[..., None]) -> None:
    pool = PortPool(free=True)
    spec = ProcessSpec("deaf", lambda _: listener_launch(pool.choose(0), "--deaf"), stop_timeout_s=3600)
    supervisor = Supervisor([spec], [], tmp_path, report, {}, {})
    stopping = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stopping, stopping.set))
    await until(lambda: (state := load_state(tmp_path)) is not None and state.phase == "stopping")
    supervisor.hurry()
    async with asyncio.timeout(BOUND_S):
        await running


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start small stacks as processes of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(name: str, kind: str = "deathsig") -> subprocess.Popen[bytes]:
        log = (tmp_path / f"{name}.out").open("wb")
        command = [sys.executable, small_stack.__file__, str(tmp_path / name), kind]
        with log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def ready_state(state_dir: Path, supervisor: subprocess.Popen[bytes]) -> StackState:
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        state = load_state(state_dir)
        if state is not None and state.phase == "ready" and state.supervisor == identify(supervisor.pid):
            return state
        assert supervisor.poll() is None, tail(state_dir.with_name(state_dir.name + ".out"))
        time.sleep(0.02)
    raise AssertionError("the stack did not come up" + tail(state_dir.with_name(state_dir.name + ".out")))


def wait_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + BOUND_S
    while (left := [pid for pid in pids if not gone(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


KINDS = [
    pytest.param("deathsig", marks=pytest.mark.skipif(sys.platform != "linux", reason="a Linux system call")),
    "pipe",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_supervisor_killed_with_minus_9_leaves_no_child(
    tmp_path: Path, stack: Callable[..., subprocess.Popen[bytes]], kind: str
) -> None:
    supervisor = stack("a", kind)
    state = ready_state(tmp_path / "a", supervisor)
    family = [p.pid for p in psutil.Process(supervisor.pid).children(recursive=True)]
    assert {process.identity.pid for process in state.processes} <= set(family)
    supervisor.kill()
    supervisor.wait()
    wait_gone(family)
    assert all(bindable(port) for port in state.ports.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_by_signal_leaves_nothing(
    tmp_path: Path, stack: Callable[..., subprocess.Popen[bytes]], kind: str, number: signal.Signals
) -> None:
    supervisor = stack("a", kind)
    ready_state(tmp_path / "a", supervisor)
    family = [p.pid for p in psutil.Process(supervisor.pid).children(recursive=True)]
    supervisor.send_signal(number)
    assert supervisor.wait(BOUND_S) == 0
    wait_gone(family)
    state = load_state(tmp_path / "a")
    assert state is not None
    assert (state.phase, state.processes) == ("down", ())


def test_two_stacks_do_not_collide_and_a_second_in_one_directory_is_refused(
    tmp_path: Path, stack: Callable[..., subprocess.Popen[bytes]]
) -> None:
    one, two = stack("a"), stack("b")
    first, second = ready_state(tmp_path / "a", one), ready_state(tmp_path / "b", two)
    assert not set(first.ports.values()) & set(second.ports.values())
    third = stack("a")
    assert third.wait(BOUND_S) == 1
    assert b"runs already" in (tmp_path / "a.out").read_bytes()
    assert load_state(tmp_path / "a") == first, "the first goes on as it was"


def test_leftovers_of_a_dead_supervisor_are_cleared_by_the_next(tmp_path: Path) -> None:
    launch = listener_launch(PortPool(free=True).choose(0))
    child = start(launch, tmp_path / "left.log")
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = identify(dead.pid)
    dead.kill()
    dead.communicate()
    assert identity is not None
    left = ProcessState("left-1", "", child.identity, launch.port, True, 0)
    StackState(identity, "ready", {}, (left,)).save(tmp_path)
    told: list[str] = []
    assert clear_leftovers(tmp_path, lambda part, message, *, done=False: told.append(message))
    wait_gone([child.pid])
    assert child.exit_code == -signal.SIGKILL
    assert "left-1" in told[0]


def test_chosen_ports_differ_and_are_no_source_ports_of_connections() -> None:
    pool = PortPool(free=True)
    ports = [pool.choose(9092) for _ in range(50)]
    assert len(set(ports)) == 50
    assert set(ports) <= set(FREE_RANGE)


def test_the_port_of_before_is_taken_first_then_the_well_known_one() -> None:
    free = PortPool(free=True)
    before, well_known = free.choose(0), free.choose(0)
    pool = PortPool(free=False)
    assert pool.choose(well_known, before) == before
    assert pool.choose(well_known, before) == well_known
    assert pool.choose(well_known, before) not in {before, well_known}
