"""What holds for every test: fast folders first, property tests without a clock, caches in .cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from hypothesis.configuration import set_hypothesis_home_dir

ROOT = Path(__file__).parent.parent
FAST_FIRST = ("unit", "property", "contract", "integration")

set_hypothesis_home_dir(ROOT / ".cache" / "hypothesis")
# A deadline would make the verdict depend on how busy the machine is.
hypothesis.settings.register_profile("fairlane", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fairlane")


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    return FAST_FIRST.index(folder) if folder in FAST_FIRST else len(FAST_FIRST)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what is quick before what starts services; inside a folder the order stays random."""
    items.sort(key=_rank)
    for item in items:
        if _rank(item) == FAST_FIRST.index("integration"):
            item.add_marker("integration")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command run inside a test logs to a stream that is closed when the test ends; nobody may log there later."""
    root, settings = logging.getLogger(), structlog.get_config()
    before, level = list(root.handlers), root.level
    yield
    structlog.configure(**settings)
    for handler in root.handlers[:]:
        if handler not in before and type(handler).__module__.startswith("fairlane."):
            root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
