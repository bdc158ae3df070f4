"""``fairlane run STAGE``: one stage in the foreground, as `up` starts it."""

from __future__ import annotations

import asyncio
import signal

import click


@click.command(epilog="Example: FAIRLANE_INSTANCE=gate-1 fairlane run gate")
@click.argument("stage")
def command(stage: str) -> None:
    """Run one STAGE (gate, dispatcher, worker, settle, sinks) until SIGTERM or Ctrl-C.

    A stopping stage finishes or hands back what is in flight; a second signal ends it at once.
    """
    from fairlane import event_loop
    from fairlane.devstack.state import with_addresses
    from fairlane.errors import Reject
    from fairlane.settings import load_settings
    from fairlane.streams.topology import stage as row_of
    from fairlane.wiring import run_stage

    try:
        row_of(stage)
    except KeyError as failure:
        raise Reject(str(failure.args[0])) from None
    settings = with_addresses(load_settings())

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if stopping.is_set():
                for task in asyncio.all_tasks(loop):
                    task.cancel()
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await run_stage(settings, stage, stopping)

    event_loop.run(main())
