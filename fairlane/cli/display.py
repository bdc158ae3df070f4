"""What commands print: tables and progress that suit terminals, pipes and machines.

In a terminal tables have colours and fit its width; in a pipe they are plain aligned text that
``awk`` and ``grep`` can take; with ``--json`` there is one JSON document. Progress goes to stderr, so
that stdout holds data only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

Advance = Callable[[int], None]
"""Tells a progress bar how many more steps are done."""

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
"""The ``--json`` flag, the same for every command that prints data."""


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a person is looking at the stream (default: stdout)."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty()


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout; ``indent`` None makes it one line."""
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on stdout. Numbers are aligned right; None is shown as a dash."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(columns))
    ]
    if is_terminal():
        _print_rich(columns, texts, right, title)
    else:
        _print_plain(columns, texts, right, title)


def print_objects(objects: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Objects as a JSON list, or as a table of the named members."""
    if as_json:
        print_json(list(objects))
    else:
        print_table(columns, [[item.get(column) for column in columns] for item in objects])


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Advance]:
    """Show progress on stderr while the block runs: a bar in a terminal, one closing line elsewhere."""
    if not is_terminal(sys.stderr):
        done = 0

        def count(steps: int) -> None:
            nonlocal done
            done += steps

        try:
            yield count
        finally:
            click.echo(f"{label}: {done}" + (f" of {total}" if total is not None else ""), err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)


def _print_plain(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], title: str | None
) -> None:
    if title:
        click.echo(title)
    widths = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(columns)]
    for row in [columns, *rows]:
        cells = [
            cell.rjust(width) if flush_right else cell.ljust(width)
            for cell, width, flush_right in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], title: str | None
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for name, flush_right in zip(columns, right, strict=True):
        table.add_column(escape(name), justify="right" if flush_right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
