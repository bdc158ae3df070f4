"""Looks at this machine: what is missing for the native stack, and how to get it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from fairlane.agents.provider_keys import unset_keys
from fairlane.devstack.applied_providers import applied_providers
from fairlane.devstack.artifacts import cache_path, kafka_cached, redis_cached, redis_on_path
from fairlane.devstack.jar_lock import KAFKA_VERSION
from fairlane.devstack.java import find_java, java_major
from fairlane.devstack.port_choice import bindable
from fairlane.devstack.services import given_addresses, service_answers, shown, variable_of
from fairlane.devstack.stack import CLICKHOUSE_PORT, KAFKA_PORT, REDIS_PORT, SIMULATOR_PORT
from fairlane.devstack.state import load_state
from fairlane.errors import Fatal, Reject, Retry
from fairlane.settings import Settings

MINIMUM_PYTHON = (3, 11)
MINIMUM_DISK_GB = 2.0
"""Jars, the engine's wheel, and a first day of data."""
MINIMUM_MEMORY_GB = 2.0
"""Measured: the broker 0.4, ClickHouse 0.5, and about 0.1 for each of seven stage processes."""
NATIVE_EXTRA = "pip install 'fairlane[native]'"

Verdict = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``hint`` says what to do where it is not ``ok``; only ``missing`` is in the way."""

    subject: str
    verdict: Verdict
    found: str
    hint: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything ``fairlane up`` would need with these settings."""
    findings = [_python()]
    if not settings.kafka_bootstrap:
        findings += [_java(), _jars(settings)]
    if not settings.redis_url:
        findings.append(_redis(settings))
    if not settings.clickhouse_url:
        findings.append(_wheel("chdb", "ClickHouse's engine", "FAIRLANE_CLICKHOUSE_URL"))
    findings += [*_ports(settings), _disk(settings), _memory(), _state_dir(settings)]
    findings += await asyncio.gather(*(_service(*given) for given in given_addresses(settings).items()))
    return [*findings, *await _keys(settings)]


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < MINIMUM_PYTHON:
        return Finding("Python", "missing", found, "install Python 3.11 or later")
    if os.name != "posix":
        return Finding("Python", "missing", f"{found} on {sys.platform}", "the native stack runs on Linux and macOS")
    return Finding("Python", "ok", found)


def _java() -> Finding:
    try:
        java = find_java()
    except Fatal as failure:
        return Finding("Java", "missing", "none", str(failure))
    return Finding("Java", "ok", f"{java_major(java)} at {java}")


def _jars(settings: Settings) -> Finding:
    cached = kafka_cached(cache_path(settings.cache_dir))
    if cached is not None:
        return Finding("Kafka", "ok", f"{KAFKA_VERSION} at {cached}")
    return _to_be_fetched("Kafka", f"{KAFKA_VERSION}, 43 MB", "FAIRLANE_KAFKA_BOOTSTRAP")


def _redis(settings: Settings) -> Finding:
    found = redis_on_path() or redis_cached(cache_path(settings.cache_dir))
    if found is not None:
        return Finding("Redis", "ok", str(found))
    return _to_be_fetched("Redis", "10 MB", "FAIRLANE_REDIS_URL")


def _to_be_fetched(subject: str, what: str, variable: str) -> Finding:
    if shutil.which("mvn") is None and importlib.util.find_spec("jgo") is None:
        return Finding(
            subject, "missing", "not fetched, and nothing to fetch it with", f"{NATIVE_EXTRA}, or set {variable}"
        )
    return Finding(
        subject, "note", "not fetched yet", f"the first `fairlane up` fetches it ({what}) from Maven Central"
    )


def _wheel(module: str, what: str, variable: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(what, "missing", f"no module {module}", f"{NATIVE_EXTRA}, or set {variable}")
    from importlib.metadata import version

    return Finding(what, "ok", f"{module} {version(module)}")


def _ports(settings: Settings) -> Iterator[Finding]:
    state = load_state(Path(settings.state_dir))
    if settings.free_ports or (state is not None and state.running()):
        return
    for name, port, given in (
        ("Kafka", KAFKA_PORT, settings.kafka_bootstrap),
        ("Redis", REDIS_PORT, settings.redis_url),
        ("ClickHouse", CLICKHOUSE_PORT, settings.clickhouse_url),
        ("simulator", SIMULATOR_PORT, settings.simulator_url),
    ):
        if given:
            continue
        if bindable(port):
            yield Finding(f"port of {name}", "ok", f"{port} is free")
        else:
            yield Finding(f"port of {name}", "note", f"{port} is in use", "`fairlane up` takes a free one instead")


def _disk(settings: Settings) -> Finding:
    place = Path(settings.state_dir).absolute()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 1e9
    if free_gb < MINIMUM_DISK_GB:
        return Finding("disk", "missing", f"{free_gb:.1f} GB free at {place}", f"free {MINIMUM_DISK_GB:.0f} GB")
    return Finding("disk", "ok", f"{free_gb:.0f} GB free at {place}")


def _memory() -> Finding:
    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < MINIMUM_MEMORY_GB:
        hint = f"the stack takes about {MINIMUM_MEMORY_GB:.0f} GB; FAIRLANE_KAFKA_HEAP=256m makes it smaller"
        return Finding("memory", "note", f"{free_gb:.1f} GB available", hint)
    return Finding("memory", "ok", f"{free_gb:.0f} GB available")


def _state_dir(settings: Settings) -> Finding:
    place = Path(settings.state_dir)
    existing = place.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("state directory", "missing", f"{place} cannot be written", "set FAIRLANE_STATE_DIR")
    return Finding("state directory", "ok", str(place))


async def _keys(settings: Settings) -> list[Finding]:
    """The keys of the applied providers, where an installation answers. The simulator takes any key."""
    state = load_state(Path(settings.state_dir))
    running = state.addresses if state is not None and state.running() else {}
    bootstrap = settings.kafka_bootstrap or running.get("kafka", "")
    if not bootstrap or not await service_answers("kafka", bootstrap):
        return []
    try:
        providers = await applied_providers(bootstrap, settings.topic_prefix)
    except Retry as failure:
        return [Finding("keys of providers", "note", str(failure), "see whether the topics are there: fairlane topics")]
    simulator = (settings.simulator_url or running.get("simulator", "")).rstrip("/")
    unset = unset_keys((each for each in providers if each.base_url.rstrip("/") != simulator), os.environ.get)
    return [
        Finding(
            f"key of provider {provider}",
            "note",
            f"{variable} is not set in this shell",
            f"the workers need {variable} in their environment; without it calls go without a key",
        )
        for provider, variable in unset
    ]


async def _service(name: str, address: str) -> Finding:
    variable = variable_of(name)
    try:
        answered = await service_answers(name, address)
    except Reject:
        return Finding(variable, "missing", "not an address", f"mend or unset {variable}")
    if answered:
        return Finding(variable, "ok", f"{shown(address)} answers")
    hint = f"start it, or unset {variable} for a native one"
    return Finding(variable, "missing", f"{shown(address)} does not answer", hint)
