"""ClickHouse as a process: the HTTP front over the chDB engine."""

from __future__ import annotations

import sys
from pathlib import Path

from fairlane.devstack.http_readiness import http_answers
from fairlane.devstack.port_choice import HOST
from fairlane.devstack.process import Launch

NICE = 3
"""An insert uses all cores for some milliseconds, and requests on their way would wait for it. Rows can wait."""


def clickhouse_launch(directory: Path, port: int) -> Launch:
    """How to run it on the data in ``directory``, which is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    address = f"http://{HOST}:{port}"

    async def ready() -> bool:
        return await clickhouse_answers(address)

    argv = [
        sys.executable, "-m", "fairlane.devstack.clickhouse_front",
        "--host", HOST, "--port", str(port), "--path", str(directory.resolve()),
    ]  # fmt: skip
    return Launch(argv, ready, port, address=address, nice=NICE)


async def clickhouse_answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether it answers /ping as ClickHouse does."""
    return await http_answers(url.rstrip("/") + "/ping", body="Ok.", timeout_s=timeout_s)
