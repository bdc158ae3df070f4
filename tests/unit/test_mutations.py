"""Each known bug is found by the simulation and by another test: the table of ``fairlane sim --mutations`` is true."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fairlane.devstack.simulation.mutations import MUTATIONS, Mutation, switched_on
from fairlane.devstack.simulation.run import plan, simulate
from fairlane.devstack.simulation.runner import catch
from tests.source_tree import ROOT

SEEDS = 1000
"""Each is found earlier; how early changes with every change of what a seed draws."""


def name_of(mutation: Mutation) -> str:
    return mutation.name


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_the_simulation_finds_it(mutation: Mutation) -> None:
    assert catch(mutation, 0, SEEDS).seed is not None


@pytest.mark.parametrize("mutation", MUTATIONS, ids=name_of)
def test_another_test_finds_it(mutation: Mutation) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutated", mutation.also],
        cwd=ROOT,
        env=os.environ | {"MUTATION": mutation.name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed" in run.stdout


def test_a_mutation_leaves_nothing_behind() -> None:
    before = simulate(plan(0)).fingerprint
    for mutation in MUTATIONS:
        with switched_on(mutation):
            pass
    assert simulate(plan(0)).fingerprint == before


def test_names_are_unique_and_there_are_at_least_ten() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 10
