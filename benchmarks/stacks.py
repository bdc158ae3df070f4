"""Sampled call stacks: from py-spy's folded lines to costs per function and to a flame graph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SMALLEST_SHARE = 0.003
"""Narrower frames are left out of a flame graph: nobody could read them."""
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^():]*)(?::\d+)?\)$")


@dataclass(frozen=True, slots=True)
class Cost:
    """A function's share of all samples: in itself, and with what it called."""

    function: str
    own: float
    total: float


@dataclass(frozen=True, slots=True)
class Stacks:
    """Call stacks, outermost first, and how often each was seen."""

    seen: Counter[tuple[str, ...]]

    @property
    def samples(self) -> int:
        """How many were taken."""
        return self.seen.total()

    def costs(self, count: int) -> list[Cost]:
        """The functions with the largest own share."""
        own: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for stack, times in self.seen.items():
            own[stack[-1]] += times
            for function in set(stack):
                total[function] += times
        samples = max(1, self.samples)
        return [Cost(name, times / samples, total[name] / samples) for name, times in own.most_common(count)]

    def totals(self, count: int, within: str) -> list[Cost]:
        """The functions of files whose path has ``within`` in it, by share with what they called."""
        total: Counter[str] = Counter()
        own: Counter[str] = Counter()
        for stack, times in self.seen.items():
            own[stack[-1]] += times
            for function in {each for each in stack if within in each}:
                total[function] += times
        samples = max(1, self.samples)
        return [Cost(name, own[name] / samples, times / samples) for name, times in total.most_common(count)]


def read_folded(lines: Iterable[str]) -> Stacks:
    """Stacks as py-spy writes them with ``--format raw``; lines of one function count together."""
    seen: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        frames, _, times = line.rstrip("\n").rpartition(" ")
        if not times.isdecimal():
            continue
        stack = tuple(_named(frame) for frame in frames.split(";") if not frame.startswith(("process ", "thread ")))
        if stack:
            seen[stack] += int(times)
    return Stacks(seen)


def _named(frame: str) -> str:
    match = _FRAME.match(frame)
    if match is None:
        return frame
    path = match["file"].replace("\\", "/")
    return f"{match['function']} ({'/'.join(path.split('/')[-3:])})"


def flame_graph(stacks: Stacks, title: str, us_per_request: float) -> Figure:
    """One figure, the outermost call on top; a frame's number is its microseconds per request."""
    import plotly.graph_objects as go

    values: Counter[tuple[str, ...]] = Counter()
    for stack, times in stacks.seen.items():
        for depth in range(len(stack) + 1):
            values[stack[:depth]] += times
    least = stacks.samples * SMALLEST_SHARE
    kept = [stack for stack, times in values.items() if times >= least]
    scale = us_per_request / max(1, stacks.samples)
    figure = go.Figure(
        go.Icicle(
            ids=[_id(stack) for stack in kept],
            parents=[_id(stack[:-1]) if stack else "" for stack in kept],
            labels=[stack[-1].partition(" (")[0] if stack else title for stack in kept],
            customdata=[stack[-1] if stack else title for stack in kept],
            values=[values[stack] * scale for stack in kept],
            branchvalues="total",
            tiling={"orientation": "v"},
            hovertemplate="%{customdata}<br>%{value:.1f} µs per request<extra></extra>",
        )
    )
    figure.update_layout(title=f"{title}: {us_per_request:.0f} µs per request", height=700, margin={"t": 50, "l": 5})
    return figure


def _id(stack: Sequence[str]) -> str:
    return "/".join(("all", *stack))
