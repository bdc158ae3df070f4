"""Asks a service over HTTP whether it is ready."""

from __future__ import annotations


async def http_answers(url: str, *, body: str | None = None, timeout_s: float = 2.0) -> bool:
    """Whether GET answers 200, and with ``body`` (stripped) where that is given."""
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.get(url) as answer,
        ):
            text = await answer.text()
            return answer.status == 200 and (body is None or text.strip() == body)
    except (TimeoutError, aiohttp.ClientError, OSError, UnicodeDecodeError):
        return False
