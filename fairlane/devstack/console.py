"""Shows how a stack comes up: a live list in a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

PLAIN_EVERY_S = 2.0
"""In plain lines, progress within one part is told at most this often."""


class ConsoleReport:
    """A :class:`~fairlane.devstack.progress.Report` for people; a context manager around the list."""

    def __init__(self, *, live: bool | None = None) -> None:
        """``live`` None: a list where stderr is a terminal."""
        self._wants_live = sys.stderr.isatty() if live is None else live
        self._live: Live | None = None
        self._parts: dict[str, tuple[str, bool]] = {}
        self._told_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._wants_live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self._table(), console=Console(stderr=True), refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live list; what follows comes as plain lines."""
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()
            self._live = None

    def __call__(self, part: str, message: str, *, done: bool = False) -> None:
        """Show what a part does now."""
        if self._live is not None:
            self._parts[part] = (message, done)
            self._live.update(self._table())
            return
        now = time.monotonic()
        before, _ = self._parts.get(part, ("", False))
        # Two messages that differ in figures only are steps of one thing.
        same_thing = _without_digits(before) == _without_digits(message)
        self._parts[part] = (message, done)
        if same_thing and not done and now - self._told_at.get(part, 0.0) < PLAIN_EVERY_S:
            return
        self._told_at[part] = now
        click.echo(f"{part}: {message}", err=True)

    def _table(self) -> Table:
        from rich.markup import escape
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for part, (message, done) in self._parts.items():
            mark = Text("✓", style="green") if done else Spinner("dots", style="cyan")
            table.add_row(mark, part, escape(message.splitlines()[0] if message else ""))
        return table


def _without_digits(text: str) -> str:
    return "".join(character for character in text if not character.isdigit())
