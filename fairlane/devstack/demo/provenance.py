"""Where a run's figures come from: code, machine, command and data."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from fairlane import __version__

TRACE_CITATION = (
    "Azure LLM inference trace 2023, conversation (CC-BY 4.0): Patel, Choukse, Zhang, Shah, Goiri, Maleki, Bianchini, "
    '"Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024'
)


def provenance(command: str, facts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Name and value pairs for the foot of a report."""
    system = f"{platform.system()} {platform.machine()}"
    return [
        ("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by Fairlane {__version__}{_commit()}"),
        ("machine", f"{system}, {os.cpu_count()} cores, Python {platform.python_version()}"),
        ("command", command),
        *facts,
        ("trace", TRACE_CITATION),
    ]


def _commit() -> str:
    """The checkout's commit; empty where the code is not in one, or there is no git."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {described.stdout.strip()}" if described.returncode == 0 else ""
