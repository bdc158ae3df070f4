"""The rules of the house that a machine can check: layers, sizes, names, purity, imports without effects."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import CODE, LINKED, ROOT, WRITTEN_BY_HAND, modules, python_files, repository_files

LINES_MAX = 400
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "base_utils"}

# What decides is a function of its arguments: no clock, no chance of its own, no I/O, no tasks, no log.
IMPURE_MODULES = {
    "asyncio", "concurrent", "contextvars", "http", "io", "logging", "multiprocessing", "os", "pathlib", "secrets",
    "selectors", "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
IMPURE_CALL = re.compile(r"\b(datetime\.now|datetime\.utcnow|date\.today|random\.(?!Random\b)\w+)\(")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_the_four_folders_are_relative_links_inside_the_package() -> None:
    for name in LINKED:
        link = ROOT / "fairlane" / name
        assert link.is_symlink(), f"fairlane/{name} is no link: was the repository copied without links?"
        assert link.readlink() == Path("..") / name


def test_imports_go_down_only() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lines = {relative(path): len(path.read_text().splitlines()) for path in python_files(*WRITTEN_BY_HAND)}
    assert {name: count for name, count in lines.items() if count > LINES_MAX} == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [relative(p) for p in python_files(*WRITTEN_BY_HAND) if p.stem in EMPTY_NAMES] == []


def test_code_is_imported_under_one_name() -> None:
    bare = {
        relative(path): sorted(name for name in imported(path) if name.split(".")[0] in LINKED)
        for path in python_files(*WRITTEN_BY_HAND)
    }
    assert {path: names for path, names in bare.items() if names} == {}


@pytest.mark.parametrize("path", list(python_files("fairlane/policy")), ids=lambda path: path.stem)
def test_policy_is_pure(path: Path) -> None:
    imports = imported(path)
    roots = {name.split(".")[0] for name in imports if not name.startswith("fairlane.policy")}
    assert roots <= set(sys.stdlib_module_names), "policy knows the standard library only"
    assert not roots & IMPURE_MODULES
    text = path.read_text()
    assert not IMPURE_CALL.search(text), "time and chance are arguments"
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(ast.parse(text)))


# Runs in a process of its own: a hook on the interpreter's audit events sees every file, socket and process.
IMPORTER = """
import importlib, sys, threading
seen = []
def watch(event, args):
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append(f"opened {args[0]} for writing")
    elif event in {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.mkdir", "os.putenv"}:
        seen.append(f"{event} {args[:2]}")
for name in sys.argv[2:]:
    importlib.import_module(name)  # what others do when imported is not ours to judge
sys.addaudithook(watch)
for name in sys.argv[1].split():
    before = (len(seen), set(threading.enumerate()), len(__import__("logging").getLogger().handlers))
    importlib.import_module(name)
    after = (len(seen), set(threading.enumerate()), len(__import__("logging").getLogger().handlers))
    if after != before:
        print(name, seen[before[0]:], "threads:", len(after[1]), "root handlers:", after[2])
"""


def third_parties() -> set[str]:
    """Packages that our modules import when they are imported."""
    found: set[str] = set()
    for path in python_files(*CODE):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name for name in found if name.split(".")[0] not in {*sys.stdlib_module_names, "fairlane"}}


def test_importing_any_module_does_nothing() -> None:
    command = [sys.executable, "-B", "-P", "-c", IMPORTER, " ".join(modules()), *sorted(third_parties())]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


MACHINE = re.compile(
    r"(?<![\w.])/(?:root|Users/[a-z]+|home/[a-z]+|work(?:space)?)/"
    r"|\b(?:10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b"
    r"|\.(?:internal|corp|intranet)\b|--(?:extra-)?index-url|file://"
)
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".sql", ".lua", ".sh", ".svg", ".cfg", ""}


def test_no_file_mentions_a_machine_or_a_private_host() -> None:
    found = []
    for path in repository_files():
        if path.suffix not in TEXT or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if MACHINE.search(line) or (len(ROOT.parts) > 2 and str(ROOT) in line):
                found.append(f"{relative(path)}:{number}: {line.strip()[:100]}")
    assert found == []
