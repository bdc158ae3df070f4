"""One Kafka broker as a process: KRaft, combined roles, loopback only."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

from fairlane.devstack.log_file import tail
from fairlane.devstack.port_choice import HOST
from fairlane.devstack.process import Launch
from fairlane.errors import Fatal

NODE_ID = 1
TRANSACTION_MAX_MS = 60_000
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""Twice the largest request, so that a request travels with what the stages add to it."""


def server_properties(data: Path, port: int, controller_port: int) -> str:
    """The broker's configuration. Internal topics have one replica, as there is one node."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": f"{HOST}:{controller_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data.resolve(),
        # With few cores each hand-over to another thread that sleeps costs more than what two do side by side.
        "num.network.threads": 1,
        "num.io.threads": 1,
        "num.partitions": 1,
        "auto.create.topics.enable": "false",
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        # So long may a tenant's open transaction hold back what stands behind it in a partition of requests. The
        # default of clients is a minute, that of brokers fifteen; the second line is how soon one is found.
        "transaction.max.timeout.ms": TRANSACTION_MAX_MS,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 2000,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # A killed broker may register again only when its old session has ended; the default is nine seconds.
        "broker.session.timeout.ms": 4000,
        "broker.heartbeat.interval.ms": 1000,
        # A group's first member would otherwise wait three seconds for others.
        "group.initial.rebalance.delay.ms": 0,
        "log.segment.bytes": 64 * 1024 * 1024,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def java_command(java: Path, libs: Path, heap: str, main: str, arguments: Sequence[str]) -> list[str]:
    """A Java command with the broker's class path. ``heap`` is the largest heap, as ``512m``."""
    return [
        str(java), "-Xms128m", f"-Xmx{heap}", "-XX:+UseSerialGC", "-Dlog4j2.level=WARN",
        "-cp", f"{libs}/*", main, *arguments,
    ]  # fmt: skip


def kafka_launch(java: Path, libs: Path, directory: Path, port: int, controller_port: int, heap: str) -> Launch:
    """Write the configuration into ``directory``, format its storage if need be, and say how to run the broker on it.

    Data of an earlier broker in the directory is kept. Raises Fatal.
    """
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    properties = directory / "server.properties"
    properties.write_text(server_properties(data, port, controller_port))
    if not (data / "meta.properties").exists():
        _format(java_command(java, libs, "128m", "kafka.tools.StorageTool", _format_arguments(properties)), directory)
    address = f"{HOST}:{port}"

    async def ready() -> bool:
        return await kafka_answers(address)

    return Launch(java_command(java, libs, heap, "kafka.Kafka", [str(properties)]), ready, port, address=address)


async def kafka_answers(bootstrap: str, timeout_s: float = 5.0) -> bool:
    """Whether a broker answers for metadata and takes part in its cluster."""
    host, _, port = bootstrap.split(",", maxsplit=1)[0].rpartition(":")
    try:
        # The client logs each refused connection as an error; asking the socket first keeps it quiet.
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
    except (OSError, TimeoutError, ValueError):
        return False
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(timeout_s * 1000))
    try:
        async with asyncio.timeout(timeout_s):
            await admin.start()
            return bool((await admin.describe_cluster()).get("brokers"))
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()


def _format_arguments(properties: Path) -> list[str]:
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # The tool's parser takes a leading dash for an option.
    return ["format", "--standalone", f"--cluster-id={cluster_id}", "-c", str(properties)]


def _format(command: Sequence[str], directory: Path) -> None:
    log = directory / "format.log"
    with log.open("wb") as out:
        try:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=120, check=False).returncode
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise Fatal(f"cannot format the broker's storage: {failure}") from None
    if code != 0:
        raise Fatal(f"formatting the broker's storage ended with exit code {code}{tail(log)}")
