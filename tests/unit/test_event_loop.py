"""How our processes run: their event loop and what the garbage collector is spared."""

from __future__ import annotations

import subprocess
import sys


def in_a_process(code: str) -> str:
    # Both settings are of the whole process, so the test's own must not be touched.
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_what_is_loaded_before_is_never_collected_again() -> None:
    told = in_a_process(
        "import gc\n"
        "from fairlane import event_loop\n"
        "async def main():\n"
        "    return gc.get_freeze_count()\n"
        "before = gc.get_freeze_count()\n"
        "print(before, event_loop.run(main()) > 1000)"
    )
    assert told == "0 True"


def test_the_loop_is_uvloop_where_there_is_one() -> None:
    told = in_a_process(
        "import asyncio\n"
        "from fairlane import event_loop\n"
        "async def main():\n"
        "    return type(asyncio.get_running_loop()).__module__\n"
        "print(event_loop.run(main()))"
    )
    assert told == ("asyncio.windows_events" if sys.platform == "win32" else "uvloop")


def test_a_failure_of_the_process_is_its_own() -> None:
    told = in_a_process(
        "from fairlane import event_loop\n"
        "async def main():\n"
        "    raise KeyError('mine')\n"
        "try:\n"
        "    event_loop.run(main())\n"
        "except KeyError as failure:\n"
        "    print(failure)"
    )
    assert told == "'mine'"
