"""Reads a table of results as it was written under ``benchmarks/results``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Table:
    """Where a table comes from, the names of its columns, and its rows."""

    name: str
    origin: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def read_table(path: Path) -> Table:
    """A CSV file of results. Raises OSError where there is none."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = file.readlines()
    pairs = (line[2:].rstrip("\n").partition(": ") for line in lines if line.startswith("# "))
    columns, *rows = csv.reader(line for line in lines if not line.startswith("#"))
    return Table(path.name, {key: value for key, _, value in pairs}, tuple(columns), tuple(tuple(row) for row in rows))
