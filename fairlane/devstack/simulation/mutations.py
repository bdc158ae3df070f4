"""Known bugs that can be switched on, to see that they are found: by the simulation and by another test.

Each replaces something of the product from outside, so that no product code knows about it. ``also``
names a test that fails as well; ``tests/unit/test_mutations.py`` proves both columns of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fairlane.agents import (
    dispatcher,
    effect_writer,
    gate,
    inbox_epochs,
    intake,
    pool_scheduler,
    store_rebuild,
    worker,
)
from fairlane.agents.pool_takeover import Inherited, take_over
from fairlane.agents.worker_takeover import Inheritance, inherit
from fairlane.policy import admission, vtc
from fairlane.policy.offsets import CommitTracker
from fairlane.ports import Position
from fairlane.sinks import partition, restore
from fairlane.streams.engines import loop

Change = tuple[object, str, object]
"""An attribute of a module or class, and what takes its place."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug. ``changes`` is called each time it is switched on."""

    name: str
    what: str
    changes: Callable[[], Sequence[Change]]
    also: str
    """A test that finds it too, as pytest names it."""


@contextmanager
def switched_on(mutation: Mutation) -> Iterator[None]:
    """The product with this bug."""
    with ExitStack() as stack:
        for target, name, value in mutation.changes():
            original = vars(target)[name]
            setattr(target, name, value)
            stack.callback(setattr, target, name, original)
        yield


def _faust_commit() -> Sequence[Change]:
    """https://github.com/faust-streaming/faust/issues/606: the first record in flight is skipped."""

    def position(self: Any, note: str = "") -> tuple[int, str]:
        if not self._order:
            return self._reached, f"|{note}" if note else ""
        first = end = self._order[0]
        while end + 1 < self._reached and end + 1 not in self._open:
            end += 1
        return (end + 1 if end > first else first), f"|{note}" if note else ""

    return ((CommitTracker, "position", position),)


def _ack_before_send() -> Sequence[Change]:
    original = gate.Gate._write  # noqa: SLF001 - it is what the bug is in

    def write(self: Any, record: Any, item: Any, outgoing: Any, done: Callable[[Any], None]) -> None:
        done(record)
        original(self, record, item, outgoing, lambda _: None)

    return ((gate.Gate, "_write", write),)


def _commit_before_flush() -> Sequence[Change]:
    def announcement(_self: Any, batch: Any) -> Position:
        return Position(batch.range.last + 1)

    return ((partition.OwnedPartition, "announcement", announcement),)


def _no_fingerprint() -> Sequence[Change]:
    return ((intake, "fingerprint", lambda _body: "the same for all"),)


def _no_epoch_fence() -> Sequence[Change]:
    return ((inbox_epochs.EpochFence, "admits", lambda _self, _offset, _epoch: True),)


def _charge_never_settled() -> Sequence[Change]:
    return ((vtc.FairQueue, "settle", lambda _self, _charge, _input, _output: None),)


def _hold_released_twice() -> Sequence[Change]:
    original = admission.TenantAdmission.settle
    holds: dict[tuple[int, str], int] = {}

    def settle(self: Any, *, request_id: str, **settled: Any) -> admission.Booked:
        known = self.identities.get(request_id)
        if known is not None and known.hold:
            holds[id(self), request_id] = known.hold
        booked = original(self, request_id=request_id, **settled)
        if not booked.first:
            self.figures.held -= holds.get((id(self), request_id), 0)
        return booked

    return ((admission.TenantAdmission, "settle", settle),)


def _no_lift() -> Sequence[Change]:
    return ((vtc.FairQueue, "_lift_to", lambda _self: 0.0),)


def _dedup_only_in_the_store() -> Sequence[Change]:
    async def nothing(*_: Any) -> set[Any]:
        return set()

    return ((gate, "effects_since", nothing),)


def _metadata_not_restored() -> Sequence[Change]:
    def nothing(_base: int, _text: str) -> tuple[frozenset[int], str]:
        return frozenset(), ""

    return ((loop, "decode_metadata", nothing), (restore, "parse_range", lambda _text: None))


def _no_lease() -> Sequence[Change]:
    async def at_once(_self: Any) -> None:
        return None

    return (
        (effect_writer.EffectWriter, "lease", at_once),
        (gate.Gate, "_check_lease", lambda _self: None),
        (pool_scheduler.PoolScheduler, "_may_write", True),
    )


def _in_flight_forgotten() -> Sequence[Change]:
    async def forgetful(*args: Any, **kwargs: Any) -> Inherited:
        inherited = await take_over(*args, **kwargs)
        inherited.in_flight.clear()
        return inherited

    return ((dispatcher, "take_over", forgetful),)


def _answers_not_looked_up() -> Sequence[Change]:
    async def blind(*args: Any) -> dict[Any, Inheritance]:
        inherited = await inherit(*args)
        for inheritance in inherited.values():
            inheritance.answered.clear()
        return inherited

    return ((worker, "inherit", blind),)


def _written_again_unseen() -> Sequence[Change]:
    async def everything(_self: Any, effects: Sequence[Any], _since_ms: int) -> list[Any]:
        return list(effects)

    return ((effect_writer.EffectWriter, "_missing", everything),)


def _answers_not_restored() -> Sequence[Change]:
    async def nothing(*_: Any) -> None:
        return None

    return ((store_rebuild.StoreRebuild, "_results", nothing),)


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "faust-commit",
        "Faust's commit rule: passes the first record in flight",
        _faust_commit,
        "tests/unit/test_offsets.py::test_a_record_in_flight_at_the_head_holds_the_commit_back",
    ),
    Mutation(
        "ack-before-send",
        "the gate finishes a record before its writes are acknowledged",
        _ack_before_send,
        "tests/unit/test_gate.py::test_a_request_is_held_and_put_in_its_lane_and_done_once_that_is_acknowledged",
    ),
    Mutation(
        "commit-before-flush",
        "the sink commits behind a batch before it is inserted",
        _commit_before_flush,
        "tests/unit/test_sink_runner.py::test_a_crash_between_insert_and_commit_makes_no_second_row",
    ),
    Mutation(
        "no-fingerprint",
        "an idempotency key answers for any body",
        _no_fingerprint,
        "tests/unit/test_gate.py::test_a_request_id_with_another_body_gets_no_second_terminal",
    ),
    Mutation(
        "no-epoch-fence",
        "workers take what a dispatcher bound that had lost its pool",
        _no_epoch_fence,
        "tests/unit/test_inbox_epochs.py::test_a_record_is_void_if_a_higher_epoch_stands_before_it",
    ),
    Mutation(
        "charge-never-settled",
        "the scheduler keeps the estimate and never learns the usage",
        _charge_never_settled,
        "tests/property/test_vtc.py::test_unsettled_estimates_would_favour_long_answers_and_settling_makes_shares_even",
    ),
    Mutation(
        "hold-released-twice",
        "a result that is booked again releases its hold again",
        _hold_released_twice,
        "tests/contract/test_memory_admission_store.py::TestMemoryAdmissionStore::test_settling_releases_the_hold_and_books_the_cost_once",
    ),
    Mutation(
        "no-lift",
        "a tenant that returns catches up on its idle time",
        _no_lift,
        "tests/property/test_vtc.py::test_a_tenant_that_was_idle_gets_no_credit_for_it",
    ),
    Mutation(
        "dedup-only-in-the-store",
        "the gate does not look into the log for what is written already",
        _dedup_only_in_the_store,
        "tests/unit/test_gate.py::test_redelivery_writes_nothing_twice_and_holds_nothing_twice",
    ),
    Mutation(
        "metadata-not-restored",
        "a successor ignores what stands beside the commit",
        _metadata_not_restored,
        "tests/unit/test_sink_runner.py::test_random_crashes_refusals_and_joins_leave_exactly_one_row_each[0]",
    ),
    Mutation(
        "no-lease",
        "a process stopped for longer than its session writes on",
        _no_lease,
        "tests/unit/test_worker_ownership.py::test_without_a_certain_lease_a_result_waits_until_it_is_certain_again",
    ),
    Mutation(
        "in-flight-forgotten",
        "a new owner of a pool takes all slots for free",
        _in_flight_forgotten,
        "tests/unit/test_dispatcher.py::test_a_successor_dispatches_the_rest_and_counts_what_is_in_flight",
    ),
    Mutation(
        "answers-not-looked-up",
        "a new worker calls again for what is answered",
        _answers_not_looked_up,
        "tests/unit/test_worker_ownership.py::test_a_result_in_the_log_ends_its_record_without_a_call",
    ),
    Mutation(
        "written-again-unseen",
        "a write without an acknowledgement is repeated without a look into the log",
        _written_again_unseen,
        "tests/unit/test_worker.py::TestWriting::test_an_unacknowledged_result_that_is_in_the_log_is_not_written_again",
    ),
    Mutation(
        "answers-not-restored",
        "an emptied store is filled with what waits, and not with what was answered",
        _answers_not_restored,
        "tests/unit/test_store_rebuild.py::test_holds_counts_answers_and_who_waits_for_them_come_back",
    ),
)
"""All of them."""
