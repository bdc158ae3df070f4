"""The services of a stack by name, and how each is asked whether it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fairlane.devstack.clickhouse_service import clickhouse_answers
from fairlane.devstack.kafka_service import kafka_answers
from fairlane.devstack.redis_service import redis_answers
from fairlane.devstack.simulator_service import simulator_answers
from fairlane.errors import Reject, Retry
from fairlane.settings import ENV_PREFIX, Settings

SETTING_OF = {
    "kafka": "kafka_bootstrap",
    "redis": "redis_url",
    "clickhouse": "clickhouse_url",
    "simulator": "simulator_url",
}
"""The setting with a service's address."""
WAIT_S = 10.0
ASK_EVERY_S = 0.2

_QUESTIONS: Mapping[str, Callable[[str], Awaitable[bool]]] = {
    "kafka": kafka_answers,
    "redis": redis_answers,
    "clickhouse": clickhouse_answers,
    "simulator": simulator_answers,
}


def given_addresses(settings: Settings) -> dict[str, str]:
    """The addresses that are set, by service."""
    return {name: address for name, setting in SETTING_OF.items() if (address := getattr(settings, setting))}


def variable_of(name: str) -> str:
    """The environment variable with a service's address."""
    return ENV_PREFIX + SETTING_OF[name].upper()


def shown(address: str) -> str:
    """An address for people: without the user and password it may hold."""
    return address.rpartition("@")[2]


async def service_answers(name: str, address: str) -> bool:
    """Whether the service is there now. Raises Reject for what is no address."""
    try:
        return await _QUESTIONS[name](address)
    except ValueError:
        raise Reject(f"{variable_of(name)}: {shown(address)!r} is not an address") from None


async def await_given(addresses: Mapping[str, str], wait_s: float = WAIT_S) -> None:
    """Wait until every service answers; raises Retry naming the variable of one that does not in time."""
    for name, address in addresses.items():
        try:
            async with asyncio.timeout(wait_s):
                while not await service_answers(name, address):  # noqa: ASYNC110  (it is elsewhere: it can only be asked)
                    await asyncio.sleep(ASK_EVERY_S)
        except TimeoutError:
            variable = variable_of(name)
            raise Retry(
                f"{variable}: {shown(address)} does not answer; start it, or unset {variable} for a native one"
            ) from None
