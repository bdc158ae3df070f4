"""The simulation's checker judges from the log: it reads for itself, and shares no code with what it judges."""

from __future__ import annotations

import ast
import random

import pytest

from fairlane.devstack.simulation.commit_metadata import finished_beyond
from fairlane.policy.offsets import CommitTracker
from tests.source_tree import ROOT

JUDGES = (
    "bills",
    "books",
    "checker",
    "commit_metadata",
    "explanations",
    "facts",
    "fairness",
    "measures",
    "outcomes",
    "waiting",
)
TWINS = ("log_twin", "provider_twin")
"""What happened, as the twins noted it."""


@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_imports_other_judges_and_what_the_twins_noted_and_nothing_else_of_the_product(judge: str) -> None:
    package = "fairlane.devstack.simulation"
    allowed = {f"{package}.{name}" for name in (*JUDGES, *TWINS)} | {"fairlane.ports"}
    tree = ast.parse((ROOT / package.replace(".", "/") / f"{judge}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert {name for name in imported if name is not None and name.startswith("fairlane")} <= allowed


@pytest.mark.parametrize("seed", range(40))
def test_commit_metadata_is_read_as_the_tracker_means_it(seed: int) -> None:
    rng = random.Random(seed)
    base = rng.randrange(10_000)
    tracker, finished = CommitTracker(base), set[int]()
    reached = base + rng.choice((3, 40, 3000))
    for offset in range(base, reached):
        assert tracker.take(offset)
    for offset in rng.sample(range(base, reached), rng.randrange(reached - base)):
        tracker.done(offset)
        finished.add(offset)
    offset, metadata = tracker.position(rng.choice(("", "7,clean")))
    assert finished_beyond(offset, metadata) == {each for each in finished if each >= offset}


@pytest.mark.parametrize("metadata", ["x", "xAAA=|", "rgA==|", "rAQ==|", "rA|"])
def test_metadata_that_means_nothing_is_an_error(metadata: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        finished_beyond(5, metadata)
