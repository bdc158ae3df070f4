"""What a process says about itself: the metrics port and its Prometheus implementation, and the log.

Metrics are declared in :mod:`fairlane.metrics`. Agents, sinks and adapters take a :class:`Metrics` in
their constructor and log through :func:`get_logger`; only a process's entry point calls
:func:`~fairlane.logs.configure_logging`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from fairlane.logs import Logger, configure_logging, debug_wanted, get_logger
from fairlane.metrics import METRICS, MetricSpec

__all__ = [
    "METRICS",
    "NO_METRICS",
    "OTHER",
    "Logger",
    "MetricSpec",
    "Metrics",
    "PrometheusMetrics",
    "configure_logging",
    "debug_wanted",
    "get_logger",
]

OTHER = "other"
"""The value a label takes beyond its limit of distinct values."""
LABEL_VALUES_MAX = 100
"""Distinct values of one label before new ones become :data:`OTHER`."""
_CHILDREN_MAX = 20_000


class Metrics(Protocol):
    """Counts and measures. Names and labels are those of :data:`METRICS`; never blocks, cheap to call."""

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add one value to a histogram."""
        ...

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...


class _NoMetrics:
    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        pass

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        pass

    def set(self, name: str, value: float, /, **labels: str) -> None:
        pass


NO_METRICS: Metrics = _NoMetrics()
"""Accepts everything, keeps nothing."""

_Key = tuple[str, tuple[tuple[str, str], ...]]


class PrometheusMetrics:
    """:class:`Metrics` on a registry of its own, so that two in one process never meet.

    A label has at most ``label_values_max`` distinct values; later ones are counted as ``other``. A
    gauge is not set for them at all: the last of many values would be no true figure of the rest.
    Raises ValueError for a name or label that is not declared, and for the wrong kind.
    """

    def __init__(
        self,
        specs: Mapping[str, MetricSpec] = METRICS,
        *,
        label_values_max: int = LABEL_VALUES_MAX,
        prefix: str = "fairlane_",
        process_metrics: bool = True,
    ) -> None:
        # The library's switch is process-wide. Its `_created` series double the size of an exposition.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves this one untyped
        self._specs = specs
        self._label_values_max = label_values_max
        self._registry = CollectorRegistry()
        self._values: dict[str, set[str]] = {}
        self._counters: dict[_Key, Counter] = {}
        self._gauges: dict[_Key, Gauge | None] = {}
        self._histograms: dict[_Key, Histogram] = {}
        self._families: dict[str, Counter | Gauge | Histogram] = {
            spec.name: _family(spec, prefix, self._registry) for spec in specs.values()
        }
        if process_metrics:
            ProcessCollector(registry=self._registry)

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Add to a counter."""
        # Resolving labels in the library costs more than the addition, so its children are kept.
        key = (name, tuple(labels.items()))
        child = self._counters.get(key)
        if child is None:
            resolved, _ = self._child(name, "counter", labels)
            assert isinstance(resolved, Counter)
            child = resolved
            if len(self._counters) < _CHILDREN_MAX:
                self._counters[key] = child
        child.inc(amount)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add one value to a histogram."""
        key = (name, tuple(labels.items()))
        child = self._histograms.get(key)
        if child is None:
            resolved, _ = self._child(name, "histogram", labels)
            assert isinstance(resolved, Histogram)
            child = resolved
            if len(self._histograms) < _CHILDREN_MAX:
                self._histograms[key] = child
        child.observe(value)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        key = (name, tuple(labels.items()))
        if key in self._gauges:
            child = self._gauges[key]
        else:
            resolved, folded = self._child(name, "gauge", labels)
            assert isinstance(resolved, Gauge)
            child = None if folded else resolved
            if len(self._gauges) < _CHILDREN_MAX:
                self._gauges[key] = child
        if child is not None:
            child.set(value)

    def exposition(self) -> bytes:
        """Everything in the Prometheus text format 0.0.4."""
        return generate_latest(self._registry)

    def _child(self, name: str, kind: str, labels: Mapping[str, str]) -> tuple[Counter | Gauge | Histogram, bool]:
        spec = self._specs.get(name)
        if spec is None:
            raise ValueError(f"metric {name!r} is not declared; add a row to fairlane/metrics.py")
        if spec.kind != kind:
            raise ValueError(f"metric {name!r} is a {spec.kind}, not a {kind}")
        if labels.keys() != set(spec.labels):
            raise ValueError(f"metric {name!r} takes the labels {_listed(spec.labels)}, not {_listed(labels)}")
        family = self._families[name]
        if not spec.labels:
            return family, False
        bounded = [self._bounded(label, labels[label]) for label in spec.labels]
        folded = any(value == OTHER != labels[label] for label, value in zip(spec.labels, bounded, strict=True))
        if folded and kind == "gauge":
            return family, True
        return family.labels(*bounded), folded

    def _bounded(self, label: str, value: str) -> str:
        values = self._values.setdefault(label, set())
        if value in values:
            return value
        if len(values) < self._label_values_max:
            values.add(value)
            return value
        if "telemetry_folded_total" in self._specs and label != "label":
            self.inc("telemetry_folded_total", label=label)
        return OTHER


def _family(spec: MetricSpec, prefix: str, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match spec.kind:
        case "counter":
            return Counter(prefix + spec.name, spec.help, spec.labels, registry=registry)
        case "gauge":
            return Gauge(prefix + spec.name, spec.help, spec.labels, registry=registry)
        case "histogram":
            return Histogram(prefix + spec.name, spec.help, spec.labels, registry=registry, buckets=spec.buckets)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
