"""The load of `make chaos`: which record goes where."""

from __future__ import annotations

from tests.chaos.load import PARTITIONS, Sent, partition_of


def test_a_reused_id_cannot_overtake_the_request_that_has_it() -> None:
    first = Sent("good", "acme", f"run-a-{PARTITIONS + 3}", 0.0)
    assert partition_of(first, PARTITIONS + 3) == 3
    assert partition_of(Sent("reused_id", "acme", first.request_id, 0.0), PARTITIONS + 6) == 3
    assert partition_of(Sent("repeated", "acme", first.request_id, 0.0), PARTITIONS + 6) == 6
