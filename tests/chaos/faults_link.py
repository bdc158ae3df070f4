"""Redis slow, ClickHouse refusing or losing answers, the provider hanging, failing or dripping: by the links."""

from __future__ import annotations

import asyncio

from tests.chaos.fault import Fault, Scene, Step, now
from tests.chaos.faulty_link import SOUND, Trouble

_BODY = b'{"error": {"message": "chaos", "type": "server_error"}}'
REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


def trouble(link: str, what: Trouble, seconds: float) -> Step:
    """A link is troubled for some seconds."""

    async def step(scene: Scene) -> float:
        proxy = scene.stack.links[link]
        before = proxy.disturbed
        await proxy.set(what)
        try:
            await asyncio.sleep(seconds)
        finally:
            await proxy.set(SOUND)
        ended = now()
        if proxy.disturbed == before:
            scene.failures.append(f"nobody felt the trouble of {link}: the fault tested nothing")
        return ended

    return step


LINKS = (
    Fault("redis-slow", "Redis answers 2 s late, for 15 s", (trouble("redis", Trouble(delay_s=2.0), 15.0),)),
    Fault("clickhouse-refuse", "ClickHouse refuses for a minute", (trouble("clickhouse", Trouble(refuse=True), 60.0),)),
    Fault(
        "clickhouse-lost-answer", "ClickHouse inserts, and its answer is lost, for 15 s",
        (trouble("clickhouse", Trouble(lose_answer_to=b"INSERT"), 15.0),),
    ),
    Fault(
        "provider-hang", "the provider takes requests and never answers, for 10 s",
        (trouble("provider", Trouble(hang=True), 10.0),), calls_bar=None, success_bar=0.5,
    ),
    Fault(
        "provider-error", "the provider answers 500 to everything, for 10 s",
        (trouble("provider", Trouble(answer=REFUSAL), 10.0),), calls_bar=None, success_bar=0.5,
    ),
    Fault(
        "provider-drip", "the provider answers one byte every 50 ms, for 10 s",
        (trouble("provider", Trouble(drip_s=0.05), 10.0),), calls_bar=None, success_bar=0.5,
    ),
)  # fmt: skip
