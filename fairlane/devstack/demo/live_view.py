"""What is seen while the demo runs: a live table in a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairlane.devstack.demo.observer import TenantLine

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

NANO_PER_USD = 1_000_000_000
TERMINAL_PERIOD_S = 0.25
PLAIN_PERIOD_S = 5.0
COLUMNS = ("tenant", "requests", "waiting", "in flight", "done", "refused", "wait p50", "wait p99", "share", "cost")
_BAR_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Moment:
    """What is shown: what the run is doing now, and every tenant's figures."""

    headline: str
    lines: Sequence[TenantLine]


class LiveView:
    """Shows moments until its block ends; the last one stays on the screen."""

    def __init__(self, console: Console, moment: Callable[[], Moment], flooder: str) -> None:
        self._console = console
        self._moment = moment
        self._flooder = flooder
        self._live: Live | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Show until ``stopping`` is set, and once more then."""
        with self._display():
            period_s = TERMINAL_PERIOD_S if self._console.is_terminal else PLAIN_PERIOD_S
            while not stopping.is_set():
                self._show()
                try:
                    await asyncio.wait_for(stopping.wait(), period_s)
                except TimeoutError:
                    continue
            self._show()

    def _display(self) -> AbstractContextManager[Any]:
        if not self._console.is_terminal:
            return nullcontext()
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False)
        return self._live

    def _show(self) -> None:
        moment = self._moment()
        if self._live is not None:
            self._live.update(table(moment, self._flooder), refresh=True)
            return
        for line in plain(moment):
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def plain(moment: Moment) -> list[str]:
    """The moment as plain lines, one a tenant."""
    texts = [[line.tenant_id, *_cells(line)] for line in moment.lines]
    widths = [max(len(row[index]) for row in [COLUMNS, *texts]) for index in range(len(COLUMNS))]

    def aligned(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])

    return [moment.headline, *(f"  {aligned(row)}" for row in [COLUMNS, *texts])]


def table(moment: Moment, flooder: str) -> Table:
    """The moment as a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(moment.headline), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(COLUMNS):
        shown.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    shown.add_column("", no_wrap=True, width=_BAR_WIDTH)
    for line in moment.lines:
        style = "dark_orange" if line.tenant_id == flooder else "cyan"
        bar = "━" * max(round(line.share * _BAR_WIDTH), 1 if line.share else 0)
        shown.add_row(Text(line.tenant_id, style=style), *_cells(line), Text(bar, style=style))
    return shown


def _cells(line: TenantLine) -> list[str]:
    return [
        f"{line.requests:,}", f"{line.waiting:,}", f"{line.in_flight:,}", f"{line.succeeded:,}", f"{line.refused:,}",
        _wait(line.wait_p50_ms), _wait(line.wait_p99_ms), f"{line.share:.1%}",
        f"${line.cost_nano_usd / NANO_PER_USD:.4f}",
    ]  # fmt: skip


def _wait(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"
