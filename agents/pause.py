"""A pause in which work gathers, so that one step does more of it. Whoever needs the step at once ends the pause."""

from __future__ import annotations

import asyncio


class Pause:
    """Of one task. Ending it while the task does not pause changes nothing."""

    def __init__(self) -> None:
        self._over: asyncio.Future[None] | None = None

    async def at_most(self, seconds: float) -> None:
        """Wait so long, or until :meth:`end`."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        timer = loop.call_later(seconds, self.end)
        try:
            await self._over
        finally:
            timer.cancel()
            self._over = None

    def end(self) -> None:
        """Let the task go on now."""
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
