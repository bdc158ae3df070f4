"""How a process of ours runs: its event loop and its garbage collector."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

YOUNG_OBJECTS = 20_000
"""Python looks for cycles after every 700 new containers by default, and here nearly all of them are requests
under way, which it only moves on to the older generations. Cycles are rare, so they can wait for more."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like :func:`asyncio.run`, on uvloop where there is one (not on Windows). Call it once everything is imported.

    What is loaded by then stays for good, so the garbage collector never looks at it again: the imports of a
    stage alone are 80,000 objects, and every full collection went through them for 50 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
