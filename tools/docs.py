"""Writes the generated parts of the documentation, or checks that they are current.

A generated part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. Run as
``python tools/docs.py`` (``make docs``); ``tests/unit/test_docs.py`` compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from fairlane.metrics import METRICS
from fairlane.settings import ENV_PREFIX, Settings
from fairlane.streams.render import mermaid

ROOT = Path(__file__).parent.parent


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


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"topology": topology_picture},
    "docs/operations.md": {"settings": settings_table, "metrics": metrics_table},
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
