"""CPU time and memory of the processes of a stack, from the operating system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds since the process began, with those of its children, and resident bytes."""

    cpu_s: float
    rss: int


def used(pids: Mapping[str, int]) -> dict[str, Used]:
    """What each process has used, by its name; one that has ended is left out."""
    found = {}
    for name, pid in pids.items():
        try:
            main = psutil.Process(pid)
            parts = [main, *main.children(recursive=True)]
            times = [part.cpu_times() for part in parts]
            rss = sum(part.memory_info().rss for part in parts)
        except psutil.NoSuchProcess:
            continue
        ended = main.cpu_times()
        seconds = sum(each.user + each.system for each in times) + ended.children_user + ended.children_system
        found[name] = Used(seconds, rss)
    return found


def spent(before: Mapping[str, Used], after: Mapping[str, Used]) -> dict[str, float]:
    """CPU seconds by process between two looks; one that came later counts from its start."""
    return {name: now.cpu_s - (before[name].cpu_s if name in before else 0.0) for name, now in after.items()}


def machine() -> str:
    """Cores, memory and processor, for the foot of a table."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {memory_gib:.0f} GiB, {_processor()}"


def busy_s() -> float:
    """CPU seconds of the whole machine since it started, all processes."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a file of the kernel, read line by line
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        import platform

        return platform.processor() or platform.machine()
