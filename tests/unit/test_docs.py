"""The documents agree with the code: generated parts are current, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairlane.cli.main import COMMANDS
from fairlane.settings import Settings
from tests.source_tree import ROOT, repository_files
from tools.docs import PARTS, renewed

PAGES = sorted(path for path in repository_files() if path.suffix == ".md")
FOLDERS = "agents|streams|schemas|sinks|fairlane|tests|docs|examples|tools|devstack|adapters|policy|ports|cli"
NAMED_PATH = re.compile(rf"`((?:{FOLDERS})/[\w./*-]*)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[\w-]*)?\)")
COMMAND = re.compile(r"(?:^|`|\|\s|[;&]\s)\s*(?:\.venv/bin/)?fairlane ([a-z]+)", re.MULTILINE)
VARIABLE = re.compile(r"\bFAIRLANE_([A-Z_]+)\b")
NO_SETTINGS = {"CONFIG"}
"""Variables that say where settings are."""


def test_a_generated_part_that_lags_behind_is_renewed_and_the_rest_is_kept() -> None:
    text = "before\n<!-- begin x -->\nold\n<!-- end x -->\nafter"
    assert renewed(text, {"x": lambda: r"new \1"}) == "before\n<!-- begin x -->\nnew \\1\n<!-- end x -->\nafter"


def test_a_document_without_its_markers_is_told() -> None:
    with pytest.raises(ValueError, match="exactly one <!-- begin x -->"):
        renewed("nothing", {"x": str})


@pytest.mark.parametrize("name", PARTS)
def test_generated_parts_are_current(name: str) -> None:
    text = (ROOT / name).read_text()
    assert renewed(text, PARTS[name]) == text, f"{name} lags behind the code: run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    missing = [target for target in LINK.findall(text) if "://" not in target and not (page.parent / target).exists()]
    bases = (ROOT, ROOT / "fairlane")
    missing += [name for name in NAMED_PATH.findall(text) if not any(list(b.glob(name.rstrip("/"))) for b in bases)]
    missing += [f"fairlane {name}" for name in COMMAND.findall(text) if name not in COMMANDS]
    known = {name.upper() for name in Settings.__dataclass_fields__} | NO_SETTINGS
    missing += [f"FAIRLANE_{name}" for name in VARIABLE.findall(text) if name not in known]
    assert missing == []
