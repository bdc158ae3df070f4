"""A pytest plugin: the tests of a run meet the product with one known bug (``MUTATION`` names it)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fairlane.devstack.simulation.mutations import MUTATIONS, switched_on


@pytest.fixture(autouse=True, scope="session")
def with_one_known_bug() -> Iterator[None]:
    """Switched on for the whole run."""
    (mutation,) = (mutation for mutation in MUTATIONS if mutation.name == os.environ["MUTATION"])
    with switched_on(mutation):
        yield
