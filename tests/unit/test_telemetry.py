"""Metrics: declared once, bounded, exposed as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlane.metrics import METRICS, MetricSpec
from fairlane.telemetry import NO_METRICS, PrometheusMetrics

SPECS = {
    spec.name: spec
    for spec in (
        MetricSpec("calls_total", "counter", "Calls.", ("tenant", "status")),
        MetricSpec("waiting", "gauge", "Waiting.", ("tenant",)),
        MetricSpec("wait_seconds", "histogram", "Wait.", ("tenant",), (0.1, 1.0)),
        MetricSpec("ticks_total", "counter", "Ticks."),
        MetricSpec("telemetry_folded_total", "counter", "Folded.", ("label",)),
    )
}


def exposed(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and label values, the latter in order of the labels' names."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (s.name, tuple(s.labels[label] for label in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


def small(label_values_max: int = 100) -> PrometheusMetrics:
    return PrometheusMetrics(SPECS, label_values_max=label_values_max, process_metrics=False)


def test_counters_gauges_and_histograms_appear_with_prefix_and_labels() -> None:
    metrics = small()
    metrics.inc("calls_total", tenant="acme", status="ok")
    metrics.inc("calls_total", 2, status="ok", tenant="acme")
    metrics.inc("ticks_total")
    metrics.set("waiting", 7, tenant="acme")
    metrics.set("waiting", 3, tenant="acme")
    metrics.observe("wait_seconds", 0.5, tenant="acme")
    seen = exposed(metrics)
    assert seen["fairlane_calls_total", ("ok", "acme")] == 3
    assert seen["fairlane_ticks_total", ()] == 1
    assert seen["fairlane_waiting", ("acme",)] == 3
    assert seen["fairlane_wait_seconds_bucket", ("0.1", "acme")] == 0
    assert seen["fairlane_wait_seconds_bucket", ("1.0", "acme")] == 1
    assert seen["fairlane_wait_seconds_sum", ("acme",)] == 0.5


def test_a_label_with_too_many_values_becomes_other_and_nothing_is_lost() -> None:
    metrics = small(label_values_max=2)
    for tenant in ("a", "b", "c", "d", "a", "c"):
        metrics.inc("calls_total", tenant=tenant, status="ok")
    seen = exposed(metrics)
    assert seen["fairlane_calls_total", ("ok", "a")] == 2
    assert seen["fairlane_calls_total", ("ok", "b")] == 1
    assert seen["fairlane_calls_total", ("ok", "other")] == 3
    assert ("fairlane_calls_total", ("ok", "c")) not in seen
    assert seen["fairlane_telemetry_folded_total", ("tenant",)] >= 1


def test_a_gauge_beyond_the_limit_is_left_out_rather_than_wrong() -> None:
    metrics = small(label_values_max=1)
    for _ in range(2):
        metrics.set("waiting", 1, tenant="a")
        metrics.set("waiting", 99, tenant="b")
    gauges = {labels: value for (name, labels), value in exposed(metrics).items() if name == "fairlane_waiting"}
    assert gauges == {("a",): 1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.inc("nowhere_total"), "not declared"),
        (lambda m: m.inc("waiting", tenant="a"), "is a gauge"),
        (lambda m: m.set("ticks_total", 1), "is a counter"),
        (lambda m: m.inc("calls_total", tenant="a"), "takes the labels status, tenant, not tenant"),
        (lambda m: m.inc("calls_total", tenant="a", status="ok", region="eu"), "takes the labels"),
    ],
)
def test_a_wrong_name_kind_or_label_is_told(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(small())  # type: ignore[operator]  # a lambda of the table above


def test_two_registries_in_one_process_do_not_meet() -> None:
    first, second = small(), small()
    first.inc("ticks_total")
    assert exposed(second).get(("fairlane_ticks_total", ()), 0) == 0


def test_no_metrics_takes_anything() -> None:
    NO_METRICS.inc("anything", 3, a="b")
    NO_METRICS.observe("anything", 1.0)
    NO_METRICS.set("anything", 1.0, c="d")


def test_every_declared_metric_can_be_exposed() -> None:
    text = PrometheusMetrics().exposition().decode()
    for spec in METRICS.values():
        assert f"# HELP fairlane_{spec.name.removesuffix('_total')}" in text


@pytest.mark.parametrize("spec", METRICS.values(), ids=lambda spec: spec.name)
def test_declarations_keep_the_conventions(spec: MetricSpec) -> None:
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert bool(spec.buckets) == (spec.kind == "histogram")
    assert spec.help.endswith(".")
    assert not {"request_id", "idempotency_key", "trace_id"} & set(spec.labels), "an id is no label"
