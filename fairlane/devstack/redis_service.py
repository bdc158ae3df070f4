"""Redis (or Valkey) as a process that keeps its data: it knows which requests were answered and what was spent.

Every write stands in its append-only file before it is acknowledged, so a process that is killed loses nothing; a
machine that loses power loses a second.
"""

from __future__ import annotations

from pathlib import Path

from fairlane.devstack.port_choice import HOST
from fairlane.devstack.process import Launch


def redis_launch(binary: Path, directory: Path, port: int) -> Launch:
    """How to run it; ``directory`` holds its data."""
    directory.mkdir(parents=True, exist_ok=True)
    address = f"redis://{HOST}:{port}/0"

    async def ready() -> bool:
        return await redis_answers(address)

    argv = [
        str(binary), "--bind", HOST, "--port", str(port), "--dir", str(directory.resolve()),
        "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
        # Writing the file anew takes a core; it is small as it is, and disks are large.
        "--auto-aof-rewrite-min-size", "256mb", "--rdbcompression", "no",
    ]  # fmt: skip
    return Launch(argv, ready, port, address=address)


async def redis_answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether it answers PING."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    client = Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()
