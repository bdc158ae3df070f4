"""Writes the generated parts of the documentation, or checks that they are current.

A generated part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. Run as
``python tools/docs.py`` (``make docs``); ``tests/unit/test_docs.py`` compares.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from fairlane.devstack.simulation.mutations import MUTATIONS
from fairlane.metrics import METRICS
from fairlane.settings import ENV_PREFIX, Settings
from fairlane.streams.render import mermaid

ROOT = Path(__file__).parent.parent
CHAOS = ROOT / "benchmarks" / "results" / "chaos.csv"


def topology_picture() -> str:
    """The flow as a Mermaid flowchart, from the table in ``streams/topology.py``."""
    return f"```mermaid\n{mermaid()}\n```"


def settings_table() -> str:
    """Every setting with its variable, default and meaning."""
    rows = [
        f"| `{ENV_PREFIX}{field.name.upper()}` | {_shown(field.default)} | {_cell(field.metadata['description'])} |"
        for field in fields(Settings)
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def metrics_table() -> str:
    """Every metric as it is exposed."""
    rows = [
        f"| `fairlane_{spec.name}` | {spec.kind} | {', '.join(spec.labels)} | {_cell(spec.help)} |"
        for spec in METRICS.values()
    ]
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows])


def mutations_table() -> str:
    """Every known bug that can be switched on, and the test that finds it beside the simulation."""
    rows = [f"| {each.name} | {_cell(each.what)} | `{each.also}` |" for each in MUTATIONS]
    return "\n".join(["| bug | what it does | also found by |", "|---|---|---|", *rows])


def chaos_table() -> str:
    """What the last whole run of ``make chaos`` counted."""
    if not CHAOS.exists():
        return "Not run yet: `make chaos`, then `make docs`."
    with CHAOS.open(encoding="utf-8", newline="") as file:
        lines = file.readlines()
    origin = dict(line[2:].rstrip("\n").split(": ", 1) for line in lines if line.startswith("# "))
    columns = {
        "fault": "fault",
        "what": "what",
        "requests": "requests",
        "lost": "lost",
        "duplicates": "duplicates",
        "over_budget": "over budget",
        "missing_rows": "rows missing",
        "extra_rows": "rows too many",
        "calls_per_request": "calls a request",
        "recovery_s": "recovery, s",
        "verdict": "",
    }
    rows = [
        "| " + " | ".join(_cell(row[name]) for name in columns) + " |"
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
    ]
    head = "| " + " | ".join(columns.values()) + " |"
    told = f"Commit {origin['commit']}, {origin['made']}, {origin['machine']}."
    return "\n".join([told, "", head, "|---" * len(columns) + "|", *rows])


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"topology": topology_picture},
    "docs/operations.md": {"settings": settings_table, "metrics": metrics_table},
    "docs/design/testing.md": {"mutations": mutations_table, "chaos": chaos_table},
}


def renewed(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """``text`` with each part generated anew; raises ValueError where its markers are missing."""
    for name, render in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"needs exactly one {begin} … {end}")
        # A function, because the text may hold backslashes.
        replacement = f"{begin}\n{render()}\n{end}"
        text = pattern.sub(lambda _, new=replacement: new, text)  # type: ignore[misc]  # a default argument binds it
    return text


def main() -> None:
    """Rewrite every document that has generated parts."""
    for name, parts in PARTS.items():
        path = ROOT / name
        path.write_text(renewed(path.read_text(), parts))


def _shown(default: object) -> str:
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{text}`" if text else "empty"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
