"""Notices that a process hangs: it runs, and does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

CHECKS_MIN = 3
"""So many answers must be missing, whatever the time: after this process itself was stopped, the time alone says
nothing of the other one."""
CHECKS_PER_TIMEOUT = 6


async def silence(ask: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
    """Ask until no answer came for ``timeout_s`` seconds; then return. ``ask`` says whether it answered."""
    interval_s = timeout_s / CHECKS_PER_TIMEOUT
    since: float | None = None
    missing = 0
    while since is None or missing < CHECKS_MIN or time.monotonic() - since < timeout_s:
        await asyncio.sleep(interval_s)
        asked_at = time.monotonic()
        if await ask():
            since, missing = None, 0
        else:
            since, missing = since if since is not None else asked_at, missing + 1
