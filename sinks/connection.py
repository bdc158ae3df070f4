"""A connection to ClickHouse over HTTP: one client, made at first use; its failures say what to do next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fairlane.errors import Reject, Retry

_CONNECT_TIMEOUT_S = 5
_ANSWER_TIMEOUT_S = 30
_RETRY_AFTER_S = 0.5
_PASSING_CODES = frozenset({
    159, 160,  # TIMEOUT_EXCEEDED, TOO_SLOW
    202,       # TOO_MANY_SIMULTANEOUS_QUERIES
    209, 210,  # SOCKET_TIMEOUT, NETWORK_ERROR
    241,       # MEMORY_LIMIT_EXCEEDED
    242,       # TABLE_IS_READ_ONLY
    243,       # NOT_ENOUGH_SPACE
    252,       # TOO_MANY_PARTS
    319,       # UNKNOWN_STATUS_OF_INSERT
    425,       # SYSTEM_ERROR
    999,       # KEEPER_EXCEPTION
})  # fmt: skip
"""From ClickHouse's ``src/Common/ErrorCodes.cpp``: the same statement can succeed later."""


class ClickHouseConnection:
    """By URL (``http://user:password@host:port``), an ``SqlConnection`` for migrations.

    Raises Retry while ClickHouse is away and Reject for what it refuses.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Close the HTTP connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def command(
        self, statement: str, parameters: dict[str, Any] | None = None, settings: dict[str, str] | None = None
    ) -> None:
        """Run one statement without a result."""
        from clickhouse_connect.driver.exceptions import Error

        client = await self.client()
        try:
            await client.command(statement, parameters=parameters, settings=settings, use_database=False)
        except (Error, OSError, TimeoutError) as failure:
            raise refusal(failure) from None

    async def rows(self, query: str, parameters: dict[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """Run one query and return its rows."""
        from clickhouse_connect.driver.exceptions import Error

        client = await self.client()
        try:
            result = await client.query(query, parameters=parameters)
        except (Error, OSError, TimeoutError) as failure:
            raise refusal(failure) from None
        rows: Sequence[Sequence[Any]] = result.result_rows
        return rows

    async def client(self) -> Any:
        """The client of the ``clickhouse-connect`` library, connected. Raises Retry or Reject."""
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._connect()
        return self._client

    async def _connect(self) -> Any:
        import clickhouse_connect
        from clickhouse_connect.driver.exceptions import Error

        _leave_out_data_frames()
        try:
            return await clickhouse_connect.get_async_client(
                dsn=self._url,
                database="__default__",
                connect_timeout=_CONNECT_TIMEOUT_S,
                send_receive_timeout=_ANSWER_TIMEOUT_S,
                compress=False,
            )
        except (Error, OSError, TimeoutError) as failure:
            raise refusal(failure) from None


def _leave_out_data_frames() -> None:
    """Tell the library that pandas and Arrow are not installed, as they are not in a plain installation.

    It loads whichever is there at the first insert, to look whether the rows are one of their kinds: 82 MB in a
    process that has none (clickhouse-connect 1.12.0 with pandas 3.1.1, which come with the ClickHouse of `native`).
    """
    from clickhouse_connect.driver import options

    vars(options).update(dict.fromkeys(("np", "pd", "pd_time_test", "arrow", "pl")))


def error_code(failure: Exception) -> int | None:
    """ClickHouse's code of a failure; None if it did not come from a server."""
    code = getattr(failure, "code", None)
    return code if isinstance(code, int) else None


def unavailable(failure: Exception) -> Retry:
    """To be tried again, whatever it was."""
    return Retry(f"ClickHouse: {_brief(failure)}", after=_RETRY_AFTER_S)


def refusal(failure: Exception) -> Retry | Reject:
    """Retry for what passes, Reject for what the server will say again."""
    code = error_code(failure)
    if code is None or code in _PASSING_CODES:
        return unavailable(failure)
    return Reject(f"ClickHouse: {_brief(failure)}")


def _brief(failure: Exception) -> str:
    """The first line, without the address: a URL may hold a password."""
    text = (str(failure) or type(failure).__name__).split("(for url")[0].strip().splitlines()
    return text[0][:300] if text else type(failure).__name__
