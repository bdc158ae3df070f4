"""How commands reach the services: settings with the addresses of the running stack filled in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fairlane.settings import Settings, load_settings

if TYPE_CHECKING:
    from fairlane.adapters.kafka_publisher import KafkaPublisher
    from fairlane.adapters.kafka_reader import KafkaReader


def resolved_settings(*need: str) -> Settings:
    """Settings of the environment and ``fairlane.toml``; addresses not set come from the running stack.

    ``need`` names the addresses the command cannot do without. Raises Retry if one of them is not set
    and no stack is running.
    """
    from fairlane.devstack.state import with_addresses

    settings = load_settings()
    _speak_by_output(settings.log_level)
    return with_addresses(settings, need=need)


def _speak_by_output(log_level: str) -> None:
    """A command tells what happened by its output and its one-line error; the log is for ``debug``."""
    import logging

    from fairlane.logs import configure_logging

    if log_level == "debug":
        configure_logging("cli", "cli", "debug")
        return
    configure_logging("cli", "cli", "error")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@asynccontextmanager
async def log_reader(settings: Settings) -> AsyncIterator[KafkaReader]:
    """A started reader of the log. Raises Retry if Kafka cannot be reached."""
    from fairlane.adapters.kafka_reader import KafkaReader

    reader = KafkaReader(settings.kafka_bootstrap)
    await reader.start()
    try:
        yield reader
    finally:
        await reader.stop()


@asynccontextmanager
async def log_publisher(settings: Settings, client_id: str) -> AsyncIterator[KafkaPublisher]:
    """A started publisher. Raises Retry if Kafka cannot be reached."""
    from fairlane.adapters.kafka_publisher import KafkaPublisher

    publisher = KafkaPublisher(settings.kafka_bootstrap, client_id)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()
