"""Metrics and log fields are declared; what code uses and what is declared are the same set."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from fairlane.logs import LOG_FIELDS
from fairlane.metrics import METRICS
from tests.source_tree import CODE, ROOT, python_files

KIND = {"inc": "counter", "observe": "histogram", "set": "gauge"}
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "bind"}
BY_ITSELF = {"telemetry_folded_total"}


def calls(methods: set[str], receivers: tuple[str, ...]) -> Iterator[tuple[str, str, ast.Call]]:
    """``receiver.method(…)`` for receivers whose last name is one of those given, private or not."""
    for path in python_files(*CODE):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            receiver = ast.unparse(node.func.value).rpartition(".")[2].lstrip("_").lower()
            if node.func.attr in methods and receiver in receivers:
                yield where(path, node), node.func.attr, node


def where(path: Path, node: ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def metric_calls() -> Iterator[tuple[str, str, ast.Call]]:
    return calls(set(KIND), ("metrics",))


def test_every_metric_in_use_is_declared_with_this_kind_and_these_labels() -> None:
    wrong = []
    for place, method, call in metric_calls():
        name = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
        if not isinstance(name, str):
            wrong.append(f"{place}: the name of a metric is a literal, so that it can be found")
            continue
        spec = METRICS.get(name)
        labels = {keyword.arg for keyword in call.keywords}
        if spec is None:
            wrong.append(f"{place}: {name} is not declared in fairlane/metrics.py")
        elif spec.kind != KIND[method]:
            wrong.append(f"{place}: {name} is a {spec.kind}")
        elif None not in labels and labels != set(spec.labels):
            wrong.append(f"{place}: {name} takes the labels {spec.labels}")
    assert wrong == []


def test_every_declared_metric_is_in_use() -> None:
    used = {call.args[0].value for _, _, call in metric_calls() if isinstance(call.args[0], ast.Constant)}
    assert METRICS.keys() - used - BY_ITSELF == set()


def test_every_field_that_is_logged_is_allowed() -> None:
    wrong = [
        f"{place}: {keyword.arg} is not in LOG_FIELDS of fairlane/logs.py, so it would be dropped"
        for place, _, call in calls(LOG_METHODS, ("log", "logger"))
        for keyword in call.keywords
        if keyword.arg is not None and keyword.arg not in LOG_FIELDS | {"exc_info"}
    ]
    assert wrong == []
