"""A stack of processes that only listen; run as a program it is a supervisor to be killed by tests."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from fairlane.devstack import process
from fairlane.devstack.port_choice import HOST, PortPool
from fairlane.devstack.process import Launch
from fairlane.devstack.progress import Report, silent
from fairlane.devstack.running import run_stack
from fairlane.devstack.supervisor import ProcessSpec, Supervisor
from fairlane.errors import FairlaneError
from fairlane.settings import Settings

LISTENER = """
import signal, socket, sys
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
while True:
    server.accept()[0].close()
"""


def listener_launch(port: int, *options: str) -> Launch:
    """A process that listens on the port."""

    async def ready() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    return Launch([sys.executable, "-c", LISTENER, str(port), *options], ready, port, address=f"tcp://{HOST}:{port}")


def small_supervisor(settings: Settings, _report: Report) -> Supervisor:
    """Three listeners, one of which needs the other two."""
    pool = PortPool(free=True)

    def spec(name: str, *after: str) -> ProcessSpec:
        return ProcessSpec(name, lambda kept: listener_launch(kept or pool.choose(0)), after)

    specs = [spec("one"), spec("two"), spec("three", "one", "two")]
    return Supervisor(specs, [], Path(settings.state_dir), silent, {}, {})


def main() -> int:
    """``small_stack.py STATE_DIR deathsig|pipe``."""
    process.DEATHSIG = sys.argv[2] == "deathsig"
    try:
        run_stack(Settings(state_dir=sys.argv[1]), silent, lambda: None, small_supervisor)
    except FairlaneError as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
