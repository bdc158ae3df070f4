"""Plots as SVG files, small enough to be kept under version control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of a page: a line for each name. ``marks`` are moments, drawn as thin vertical lines."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]
    marks: Sequence[float] = field(default=())
    log_y: bool = False


def draw(path: Path, panels: Sequence[Panel], title: str) -> None:
    """Write the panels below each other into one SVG file."""
    # Not pyplot: it keeps figures for ever and chooses a window system.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Without hash salt and date the same figures give the same file.
    with rc_context({"svg.hashsalt": "fairlane", "svg.fonttype": "none", "path.simplify_threshold": 1.0}):
        figure = Figure(figsize=(10, 3.2 * len(panels)), layout="constrained")
        FigureCanvasSVG(figure)
        figure.suptitle(title, fontsize=9)
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for panel, axis in zip(panels, axes, strict=True):
            for name, points in panel.lines.items():
                axis.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1)
            for moment in panel.marks:
                axis.axvline(moment, color="grey", linewidth=0.4, alpha=0.6)
            if panel.log_y:
                axis.set_yscale("log")
            else:
                axis.set_ylim(bottom=0)
            axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
            axis.title.set_fontsize(10)
            axis.grid(alpha=0.3)
            if len(panel.lines) > 1:
                axis.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.savefig(path, format="svg", metadata={"Date": None})
