"""The model simulator as a process."""

from __future__ import annotations

import sys

from fairlane.devstack.http_readiness import http_answers
from fairlane.devstack.port_choice import HOST
from fairlane.devstack.process import Launch


def simulator_launch(port: int) -> Launch:
    """How to run it; the address is its OpenAI base URL."""
    address = simulator_url(port)

    async def ready() -> bool:
        return await simulator_answers(address)

    argv = [sys.executable, "-m", "fairlane.adapters.simulator", "--host", HOST, "--port", str(port)]
    return Launch(argv, ready, port, address=address)


def simulator_url(port: int) -> str:
    """Its OpenAI base URL."""
    return f"http://{HOST}:{port}/v1"


async def simulator_answers(base_url: str, timeout_s: float = 2.0) -> bool:
    """Whether it answers /healthz."""
    return await http_answers(base_url.rstrip("/").removesuffix("/v1") + "/healthz", timeout_s=timeout_s)
