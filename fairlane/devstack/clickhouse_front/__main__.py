"""``python -m fairlane.devstack.clickhouse_front --port 8123 --path DIR``."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import sys
from pathlib import Path

import click
from aiohttp import web

from fairlane import event_loop
from fairlane.devstack.clickhouse_front.engine import Engine
from fairlane.devstack.clickhouse_front.exceptions import QueryFailed
from fairlane.devstack.clickhouse_front.server import Front, Limits

_STOP_TIMEOUT_S = 20.0
_DEFAULTS = Limits()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; there are no passwords.")
@click.option("--port", type=click.IntRange(0, 65535), default=8123, show_default=True, help="0: any free port.")
@click.option("--path", type=click.Path(file_okay=False, path_type=Path), required=True, help="Directory of the data.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=_DEFAULTS.concurrency, help="Queries at once.")
@click.option("--max-waiting", type=click.IntRange(1), default=_DEFAULTS.waiting, help="Queries that may wait.")
@click.option("--max-body-bytes", type=click.IntRange(1), default=_DEFAULTS.body_bytes, help="Largest request body.")
@click.option("--max-result-bytes", type=click.IntRange(1), default=256 * 1024 * 1024, help="Largest answer.")
@click.option("--max-execution-time", type=click.IntRange(1), default=300, help="Seconds one query may take.")
def main(
    host: str,
    port: int,
    path: Path,
    concurrency: int,
    max_waiting: int,
    max_body_bytes: int,
    max_result_bytes: int,
    max_execution_time: int,
) -> None:
    """ClickHouse's HTTP protocol over the embedded engine, for one machine.

    Example: python -m fairlane.devstack.clickhouse_front --port 8123 --path ./clickhouse
    """
    limits = Limits(concurrency=concurrency, waiting=max_waiting, body_bytes=max_body_bytes)
    defaults = {
        "max_result_bytes": str(max_result_bytes),
        "result_overflow_mode": "throw",
        "max_execution_time": str(max_execution_time),
    }
    path.mkdir(parents=True, exist_ok=True)
    try:
        engine = Engine(str(path.resolve()), defaults)
    except QueryFailed as failure:
        click.echo(f"cannot open {path}: {failure.text}", err=True)
        sys.exit(1)
    except ImportError:
        click.echo("the ClickHouse engine is missing: pip install 'fairlane[native]'", err=True)
        sys.exit(1)
    try:
        event_loop.run(_serve(engine, limits, host, port))
    except OSError as failure:
        click.echo(f"cannot listen on {host}:{port}: {failure.strerror}", err=True)
        sys.exit(1)
    finally:
        engine.close()


async def _serve(engine: Engine, limits: Limits, host: str, port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    front = Front(engine, limits, loopback_only=_is_loopback(host))
    # Bodies are decompressed by the front: aiohttp knows neither lz4 nor our limit.
    runner = web.AppRunner(
        front.application(), access_log=None, shutdown_timeout=_STOP_TIMEOUT_S, auto_decompress=False
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0][1]
        click.echo(f"ClickHouse {engine.version} on http://{host}:{bound}", err=True)
        await stopping.wait()
    finally:
        await runner.cleanup()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    main()
