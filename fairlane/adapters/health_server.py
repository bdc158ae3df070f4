"""The HTTP endpoint of a process: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from fairlane.errors import Fatal

EXPOSITION_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus text format: https://prometheus.io/docs/instrumenting/exposition_formats/"""

Check = Callable[[], str | None]
"""None if all is well, else in a few words what is not."""


class HealthServer:
    """Serves what it is given, on one address.

    ``exposition`` renders the metrics. ``healthy`` says whether the process does its work (a
    supervisor restarts it if not), ``ready`` whether it has taken its share of it: both answer 200 and
    ``{"ok": true}``, or 503 and ``{"ok": false, "reason": …}``.
    """

    def __init__(
        self, exposition: Callable[[], bytes], *, healthy: Check, ready: Check, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._exposition = exposition
        self._checks = {"/healthz": healthy, "/readyz": ready}
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port it listens on; the one asked for before :meth:`start`, where 0 means a free one."""
        return self._port

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises Fatal if the address is taken or not ours."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        for path in self._checks:
            app.router.add_get(path, self._check)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as failure:
            await runner.cleanup()
            raise Fatal(
                f"cannot listen on {self._host}:{self._port}: {failure.strerror}; "
                "set FAIRLANE_METRICS_PORT to a free port, or to 0"
            ) from failure
        self._runner = runner
        self._port = int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close; calling it again does nothing."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._exposition(), headers={"Content-Type": EXPOSITION_TYPE})

    async def _check(self, request: web.Request) -> web.Response:
        reason = self._checks[request.path]()
        if reason is None:
            return web.json_response({"ok": True})
        return web.json_response({"ok": False, "reason": reason}, status=503)
