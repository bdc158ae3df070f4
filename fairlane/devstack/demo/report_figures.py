"""The report's plots as plotly figures (plain dictionaries). Pure: terminals in, figures out.

Colours of text and grid are left to the page, which knows whether it is light or dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairlane.devstack.demo.facts import Terminal, percentile

Figure = dict[str, Any]
NANO_PER_USD = 1_000_000_000
BUCKETS = 40
FLOODER_COLOUR = "#d55e00"
LIGHT_COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which people with any colour vision can tell apart (https://jfly.uni-koeln.de/color/)."""
PHASE_COLOURS = {"queue": "#e69f00", "model": "#0072b2", "added": "#999999"}
OUTCOME_COLOURS = {"asked": "#999999", "succeeded": "#009e73", "refused": "#d55e00"}


@dataclass(frozen=True, slots=True)
class Course:
    """The run as the plots see it: what was answered, and when it began (milliseconds since the epoch)."""

    terminals: Sequence[Terminal]
    tenants: Sequence[str]
    flooder: str
    started_ms: int
    replay_s: float
    colours: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        light = [tenant for tenant in self.tenants if tenant != self.flooder]
        colours = {tenant: LIGHT_COLOURS[index % len(LIGHT_COLOURS)] for index, tenant in enumerate(light)}
        object.__setattr__(self, "colours", {**colours, self.flooder: FLOODER_COLOUR})

    @property
    def bucket_s(self) -> float:
        """Seconds that one point of a line stands for."""
        return max(1.0, round(self.replay_s / BUCKETS * 2) / 2)

    def received_s(self, terminal: Terminal) -> float:
        """Seconds from the start to its arrival."""
        return (terminal.received_ms - self.started_ms) / 1000

    def completed_s(self, terminal: Terminal) -> float:
        """Seconds from the start to its result."""
        return (terminal.completed_ms - self.started_ms) / 1000

    def of(self, tenant: str, status: str | None = "succeeded") -> list[Terminal]:
        """A tenant's terminals, by default the successful ones."""
        return [item for item in self.terminals if item.tenant_id == tenant and status in (None, item.status)]


def figures(course: Course) -> dict[str, Figure]:
    """All plots, by the id of their place in the page."""
    return {
        "wait": queue_wait(course),
        "share": share_of_service(course),
        "throughput": throughput(course),
        "phases": where_time_went(course),
        "cost": cost(course),
    }


def queue_wait(course: Course) -> Figure:
    """Wait in the lane over time of arrival: every request a dot, the median of a few seconds a line."""
    width_s = course.bucket_s * 3
    data: list[dict[str, Any]] = []
    for tenant in course.tenants:
        terminals = course.of(tenant)
        colour = course.colours[tenant]
        style = {"legendgroup": tenant, "name": tenant, "hovertemplate": f"{tenant} %{{y:.0f}} ms<extra></extra>"}
        dots = {
            "color": colour,
            "size": 4 if tenant == course.flooder else 6,
            "opacity": 0.25 if tenant == course.flooder else 0.55,
        }
        data.append({
            **style, "type": "scatter", "mode": "markers", "showlegend": False, "marker": dots,
            "x": [round(course.received_s(item), 2) for item in terminals],
            "y": [max(round(item.queue_ms, 1), 1.0) for item in terminals],
        })  # fmt: skip
        buckets = _buckets(terminals, course.received_s, width_s)
        data.append({
            **style, "type": "scatter", "mode": "lines", "line": {"color": colour, "width": 2.5},
            "x": [start + width_s / 2 for start in buckets],
            "y": [max(percentile([item.queue_ms for item in items], 50), 1.0) for items in buckets.values()],
        })  # fmt: skip
    layout = _layout("seconds since the start (arrival of the request)", "wait in the lane")
    layout["yaxis"].update(
        type="log",
        tickvals=[1, 10, 100, 1000, 10_000, 100_000],
        ticktext=["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"],
    )
    return {"data": data, "layout": {**layout, "shapes": [_end_of_replay(course)]}}


def share_of_service(course: Course) -> Figure:
    """Tokens completed in each span of time, stacked to the whole."""
    data = []
    for tenant in sorted(course.tenants, key=lambda name: name == course.flooder):
        buckets = _buckets(course.of(tenant), course.completed_s, course.bucket_s)
        starts = _starts(course)
        data.append({
            "type": "scatter", "mode": "lines", "stackgroup": "all", "groupnorm": "percent", "name": tenant,
            "line": {"width": 0.5, "color": course.colours[tenant], "shape": "hv"}, "fillcolor": course.colours[tenant],
            "x": starts, "y": [sum(item.tokens for item in buckets.get(start, [])) for start in starts],
            "hovertemplate": f"{tenant} %{{y:.1f}} %<extra></extra>",
        })  # fmt: skip
    layout = _layout("seconds since the start (time of the result)", "share of tokens")
    layout["yaxis"].update(ticksuffix=" %", range=[0, 100])
    return {"data": data, "layout": layout}


def throughput(course: Course) -> Figure:
    """Requests per second: asked, answered with success, refused."""
    everything = list(course.terminals)
    lines = {
        "asked": _buckets(everything, course.received_s, course.bucket_s),
        "succeeded": _buckets(
            [item for item in everything if item.status == "succeeded"], course.completed_s, course.bucket_s
        ),
        "refused": _buckets(
            [item for item in everything if item.status != "succeeded"], course.completed_s, course.bucket_s
        ),
    }
    starts = _starts(course)
    data = [
        {
            "type": "scatter", "mode": "lines", "name": name, "x": [start + course.bucket_s / 2 for start in starts],
            "y": [round(len(buckets.get(start, [])) / course.bucket_s, 1) for start in starts],
            "line": {"color": OUTCOME_COLOURS[name], "width": 2.5, "dash": "dot" if name == "asked" else "solid"},
            "hovertemplate": f"{name} %{{y:.0f}}/s<extra></extra>",
        }
        for name, buckets in lines.items()
    ]  # fmt: skip
    layout = _layout("seconds since the start", "requests per second")
    layout["yaxis"].update(rangemode="tozero")
    return {"data": data, "layout": {**layout, "shapes": [_end_of_replay(course)]}}


def where_time_went(course: Course) -> Figure:
    """The mean successful request of each tenant: waiting, at the model, and what Fairlane added."""
    tenants = list(reversed(course.tenants))
    phases: dict[str, Callable[[Terminal], float]] = {
        "queue": lambda item: item.queue_ms,
        "model": lambda item: item.model_ms,
        "added": lambda item: item.added_ms,
    }
    data = [
        {
            "type": "bar", "orientation": "h", "name": phase, "y": tenants, "marker": {"color": PHASE_COLOURS[phase]},
            "x": [round(_mean([value(item) for item in course.of(tenant)]), 1) for tenant in tenants],
            "hovertemplate": f"{phase} %{{x:.1f}} ms<extra></extra>",
        }
        for phase, value in phases.items()
    ]  # fmt: skip
    layout = _layout("milliseconds, mean of the successful requests", "")
    layout.update(barmode="stack", hovermode="closest")
    layout["legend"]["traceorder"] = "normal"
    return {"data": data, "layout": layout}


def cost(course: Course) -> Figure:
    """What each tenant is billed."""
    tenants = list(reversed(course.tenants))
    amounts = [sum(item.cost_nano_usd for item in course.of(tenant, None)) / NANO_PER_USD for tenant in tenants]
    data = [
        {
            "type": "bar", "orientation": "h", "y": tenants, "x": amounts, "showlegend": False,
            "marker": {"color": [course.colours[tenant] for tenant in tenants]},
            "text": [f"${amount:.4f}" for amount in amounts], "textposition": "auto", "cliponaxis": False,
            "hovertemplate": "%{y} $%{x:.6f}<extra></extra>",
        }
    ]  # fmt: skip
    layout = _layout("US dollars", "")
    layout["xaxis"].update(tickprefix="$")
    layout.update(hovermode="closest")
    return {"data": data, "layout": layout}


def _layout(x_title: str, y_title: str) -> dict[str, Any]:
    return {
        "margin": {"l": 70, "r": 16, "t": 8, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {"title": {"text": x_title}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y_title}, "zeroline": False, "automargin": True},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        "hovermode": "x unified",
    }  # fmt: skip


def _end_of_replay(course: Course) -> dict[str, Any]:
    return {
        "type": "line", "x0": course.replay_s, "x1": course.replay_s, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"dash": "dash", "width": 1, "color": "#888"},
        "label": {
            "text": "replay ends", "textposition": "end", "textangle": 0, "xanchor": "right", "yanchor": "top",
            "font": {"size": 11, "color": "#888"},
        },
    }  # fmt: skip


def _starts(course: Course) -> list[float]:
    last = max((course.completed_s(item) for item in course.terminals), default=0.0)
    return [index * course.bucket_s for index in range(int(last // course.bucket_s) + 1)]


def _buckets(
    terminals: Iterable[Terminal], at_s: Callable[[Terminal], float], width_s: float
) -> dict[float, list[Terminal]]:
    buckets: dict[float, list[Terminal]] = {}
    for terminal in terminals:
        buckets.setdefault(max(at_s(terminal), 0.0) // width_s * width_s, []).append(terminal)
    return dict(sorted(buckets.items()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
