"""How long a crashed process stays down."""

from __future__ import annotations

from fairlane.devstack.backoff import CAP_S, STABLE_S, Backoff


def test_the_first_restart_is_quick_and_each_further_one_waits_longer_up_to_a_cap() -> None:
    delays, backoff = [], Backoff()
    for _ in range(12):
        backoff, delay_s = backoff.after(1.0)
        delays.append(delay_s)
    assert delays[0] <= 0.5
    assert delays == sorted(delays)
    assert delays[1] > delays[0]
    assert delays[-1] == CAP_S


def test_a_process_that_ran_long_enough_is_restarted_as_quickly_as_the_first_time() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff, _ = backoff.after(1.0)
    backoff, delay_s = backoff.after(STABLE_S + 1)
    assert delay_s == Backoff().after(0.0)[1]
    # And what follows counts from there.
    assert backoff.after(1.0)[1] == Backoff().after(0.0)[0].delay_s
