"""The lease of the Faust engine on a real broker."""

from __future__ import annotations

import asyncio

from tests.integration.test_faust_engine import WAIT_S, Log, Stage, log, running

__all__ = ["log"]


async def test_the_lease_holds_while_heartbeats_are_answered_and_ends_before_the_session(log: Log) -> None:
    stage = Stage()
    engine = log.engine(stage)
    assert not engine.lease_ok()
    await log.write(1)
    async with running(engine):
        await stage.until(lambda: bool(stage.delivered))
        assert engine.lease_ok()
        assert engine._app is not None
        lease = engine._app.consumer._thread.lease
        assert lease.heard is not None
        # As after a stop of the whole process: the clock went on, the heartbeats did not.
        lease.heard -= 5.0
        assert not engine.lease_ok()
        async with asyncio.timeout(WAIT_S):
            while not engine.lease_ok():  # noqa: ASYNC110 - a heartbeat tells nobody
                await asyncio.sleep(0.05)
    assert not engine.lease_ok()
