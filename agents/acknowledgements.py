"""What to do when records that belong together are acknowledged, without a gathering future for each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fairlane.ports import Record

Acknowledgement = asyncio.Future[Record]


def when_acknowledged(
    acknowledgements: Sequence[Acknowledgement],
    pending: set[Acknowledgement],
    then: Callable[[BaseException | None], None],
) -> None:
    """Call ``then`` once: with None after the last of them (at least one), or with the first failure there is.

    Each is in ``pending`` until it has ended.
    """
    left = len(acknowledgements)

    def ended(ack: Acknowledgement) -> None:
        nonlocal left
        pending.discard(ack)
        failure = asyncio.CancelledError() if ack.cancelled() else ack.exception()
        if left == 0:
            # Another one failed before, and that has been told.
            return
        left = left - 1 if failure is None else 0
        if left == 0:
            then(failure)

    pending.update(acknowledgements)
    for ack in acknowledgements:
        ack.add_done_callback(ended)
