"""``python -m fairlane.adapters.simulator``: serve until interrupted."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import click

from fairlane import event_loop
from fairlane.adapters.simulator.server import Simulator


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9999, show_default=True, help="Port to listen on; 0: a free one.")
@click.option("--time-scale", default=1.0, show_default=True, help="Factor on every delay; 0: none at all.")
@click.option("--require-key-env", metavar="NAME", help="Refuse calls without the key in this variable.")
def main(host: str, port: int, time_scale: float, require_key_env: str | None) -> None:
    """Serve simulated models, for example: python -m fairlane.adapters.simulator --port 9999."""
    api_key = None
    if require_key_env is not None:
        api_key = os.environ.get(require_key_env)
        if api_key is None:
            raise click.UsageError(f"the variable {require_key_env} is not set")
    try:
        event_loop.run(_serve(Simulator(time_scale=time_scale, api_key=api_key), host, port))
    except OSError as failure:
        click.echo(f"cannot listen on {host}:{port}: {failure.strerror}; choose another --port", err=True)
        sys.exit(1)


async def _serve(simulator: Simulator, host: str, port: int) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    address = await simulator.start(host, port)
    click.echo(f"listening on {address}")
    await stopping.wait()
    await simulator.stop()


if __name__ == "__main__":
    main()
