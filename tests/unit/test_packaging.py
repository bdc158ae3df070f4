"""What a release contains: one top-level name, every file of the four linked folders, the licence."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import fairlane
from tests.source_tree import ROOT

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "htmlcov", "node_modules")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with an sdist made from the tree and a wheel made from that sdist."""
    work = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, work / "tree", symlinks=True, ignore=LEFT_OUT)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work / "dist"), str(work / "tree")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return work / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> set[str]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def package_files() -> set[str]:
    """Every file below fairlane/, links followed, as it should stand in the wheel."""
    return {
        str((Path(directory) / file).relative_to(ROOT))
        for directory, _, files in os.walk(ROOT / "fairlane", followlinks=True)
        for file in files
        if "__pycache__" not in directory and not file.startswith(".")
    }


def test_the_wheel_holds_exactly_the_files_of_the_package(wheel: set[str]) -> None:
    assert {name for name in wheel if ".dist-info/" not in name} == package_files()


def test_only_our_own_name_lands_in_site_packages(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"fairlane", f"fairlane-{fairlane.__version__}.dist-info"}


@pytest.mark.parametrize("kind", [".lua", ".sql", ".csv.gz", "py.typed"])
def test_data_files_are_shipped(wheel: set[str], kind: str) -> None:
    assert any(name.endswith(kind) for name in wheel)


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_the_licence_and_the_notice_are_shipped(wheel: set[str], built: Path, name: str) -> None:
    assert any(entry.endswith(f".dist-info/licenses/{name}") for entry in wheel)
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert any(entry.endswith(f"/{name}") for entry in archive.getnames())


def test_the_version_is_told_once_and_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fairlane.__version__
    assert f"## [{fairlane.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_an_exact_pin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    asked = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=;~! ]", entry)[0].lower().replace("_", "-") for entry in asked}
    assert names - pinned == set()
