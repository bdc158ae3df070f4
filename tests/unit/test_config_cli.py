"""``tenants``, ``catalog``, ``topics`` and ``dlq`` as people and scripts call them, on a log in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fairlane.adapters import kafka_topics, redis_admission
from fairlane.adapters.memory_log import MemoryLog, MemoryPublisher, MemoryReader
from fairlane.cli import connections
from fairlane.cli.main import main
from fairlane.errors import Retry
from fairlane.ports import Outgoing, TenantUsage
from fairlane.schemas.base import timestamp_from_ms
from fairlane.schemas.codec import encode
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.topics import TOPICS
from fairlane.settings import Settings

ROOT = Path(__file__).parents[2]
TENANTS = str(ROOT / "examples" / "tenants.yaml")
CATALOG = str(ROOT / "examples" / "catalog.yaml")


class Shell:
    """Runs commands against one log and keeps what they print."""

    def __init__(self, log: MemoryLog, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.log = log
        self._capsys = capsys
        self._folder = folder
        self.err = ""

    def run(self, *arguments: str, code: int = 0) -> str:
        assert main(list(arguments)) == code
        captured = self._capsys.readouterr()
        self.err = captured.err
        return captured.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code))

    def file(self, text: str) -> str:
        path = self._folder / "file.yaml"
        path.write_text(text)
        return str(path)

    def letter(self, value: bytes) -> str:
        source = self.log.append(Outgoing("fairlane.requests", b"k", value, (("trace\x1bparent", b"00"),)))
        letter = DeadLetter(
            dead_letter_id=f"{source.topic}/{source.partition}/{source.offset}",
            event_time=timestamp_from_ms(source.timestamp_ms),
            stage="gate",
            source_topic=source.topic,
            source_partition=source.partition,
            source_offset=source.offset,
            error=error(ErrorCode.INVALID_JSON),
            payload_bytes=len(value),
            payload_sha256=hashlib.sha256(value).hexdigest(),
            config_version="t0-c0",
        )
        self.log.append(Outgoing("fairlane.dead-letters", letter.dead_letter_id.encode(), encode(letter)))
        return letter.dead_letter_id


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    log = MemoryLog()

    @asynccontextmanager
    async def log_reader(_settings: Settings) -> AsyncIterator[MemoryReader]:
        yield MemoryReader(log)

    @asynccontextmanager
    async def log_publisher(_settings: Settings, _client_id: str) -> AsyncIterator[MemoryPublisher]:
        yield MemoryPublisher(log)

    async def create_topics(_bootstrap: str, prefix: str, pools: Iterable[str] = ()) -> tuple[str, ...]:
        before = set(log.counts())
        log.create_topics(prefix, pools)
        return tuple(name for name in log.counts() if name not in before)

    monkeypatch.setattr(
        connections,
        "resolved_settings",
        lambda *_need: Settings(kafka_bootstrap="memory", simulator_url="http://127.0.0.1:47111/v1"),
    )
    monkeypatch.setattr(connections, "log_reader", log_reader)
    monkeypatch.setattr(connections, "log_publisher", log_publisher)
    monkeypatch.setattr(kafka_topics, "create_topics", create_topics)
    return Shell(log, capsys, tmp_path)


def test_an_applied_tenants_file_is_listed_as_it_was_written_with_defaults(shell: Shell) -> None:
    assert shell.run("tenants", "apply", "-f", TENANTS).splitlines()[-1] == "5 changes written"
    listed = shell.json("tenants", "list")
    assert [tenant["tenant_id"] for tenant in listed] == ["acme", "beacon", "cobalt", "delta", "ember"]
    assert listed[1] == {
        "tenant_id": "beacon",
        "status": "active",
        "weight": 1.0,
        "models": ["fast", "sim-small"],
        "max_undispatched": 1000,
        "labels": {},
    }
    text = shell.run("tenants", "list")
    assert "fast, sim-small" in text
    assert "plan=pro" in text


def test_diff_says_by_its_exit_code_whether_a_file_differs(shell: Shell) -> None:
    shell.run("tenants", "apply", "-f", TENANTS)
    assert shell.run("tenants", "diff", "-f", TENANTS) == "no changes\n"
    changed = shell.file("tenants: [{tenant_id: acme, weight: 7}]")
    out = shell.run("tenants", "diff", "-f", changed, code=1)
    assert "~ acme\n    weight: 2.0 -> 7.0\n" in out
    assert "  ember: applied, not in the file (stays; --prune removes it)\n" in out
    assert shell.json("tenants", "diff", "-f", changed, code=1)["changes"][0]["action"] == "change"
    assert shell.json("tenants", "list")[0]["weight"] == 2.0


def test_a_dry_run_writes_nothing(shell: Shell) -> None:
    shell.log.create_topics("fairlane.")
    assert "5 changes not written (--dry-run)" in shell.run("tenants", "apply", "-f", TENANTS, "--dry-run")
    assert shell.log.records("fairlane.tenants") == []


def test_pruning_removes_what_the_file_does_not_have(shell: Shell) -> None:
    shell.run("tenants", "apply", "-f", TENANTS)
    shell.run("tenants", "apply", "-f", shell.file("tenants: [{tenant_id: acme}]"), "--prune")
    assert [tenant["tenant_id"] for tenant in shell.json("tenants", "list")] == ["acme"]


def test_a_wrong_file_writes_nothing_at_all_and_is_bad_usage(shell: Shell) -> None:
    wrong = shell.file("tenants:\n  - {tenant_id: acme}\n  - {tenant_id: beta, weight: -1}\n")
    assert shell.run("tenants", "apply", "-f", wrong, code=2) == ""
    assert shell.err == f"fairlane: {wrong}:3: tenants[1].weight must be greater than 0\n"
    assert shell.log.counts() == {}


def test_a_missing_or_binary_file_is_told_in_one_line(shell: Shell, tmp_path: Path) -> None:
    shell.run("tenants", "apply", "-f", str(tmp_path / "none.yaml"), code=2)
    assert shell.err.endswith("none.yaml: No such file or directory\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    shell.run("tenants", "apply", "-f", str(tmp_path / "binary"), code=2)
    assert shell.err.endswith("binary: not UTF-8 text\n")


def test_an_unacknowledged_apply_is_told_as_unreachable(shell: Shell) -> None:
    shell.log.fail_next("send", Retry("no acknowledgement"))
    assert shell.run("tenants", "apply", "-f", TENANTS, code=3) == ""
    assert "4 of 5 changes were acknowledged; apply the same file again" in shell.err
    assert "1 change written" in shell.run("tenants", "apply", "-f", TENANTS)


def test_a_catalog_creates_the_topics_of_its_pools_and_lists_entries_by_kind_and_name(shell: Shell) -> None:
    shell.run("catalog", "apply", "-f", CATALOG)
    assert {"fairlane.lanes.sim", "fairlane.inbox.sim", "fairlane.lanes.sim-slow"} <= set(shell.log.counts())
    listed = shell.json("catalog", "list")
    assert [(entry["kind"], entry["name"]) for entry in listed] == [
        ("provider", "sim"), ("pool", "sim"), ("pool", "sim-slow"), ("model", "sim-large"), ("model", "sim-slow"),
        ("model", "sim-small"), ("route", "auto"), ("route", "best"), ("route", "fast"),
    ]  # fmt: skip
    assert (listed[0]["provider_kind"], listed[0]["key"]) == ("openai-compatible", "env:SIM_KEY")
    assert listed[1] == {"kind": "pool", "name": "sim", "pool": "sim", "slots": 64}
    assert listed[6] == {"kind": "route", "name": "auto", "route": "auto", "models": ["sim-small", "sim-large"]}
    text = shell.run("catalog", "list")
    assert "prices [0.20/0.10/0.80 from 2025-01-01, 0.15/0.075/0.60 from 2026-11-01]" in text
    assert "provider sim, pool sim-slow, provider_model sim-slow" in text


def test_a_changed_price_is_appended_with_a_warning(shell: Shell) -> None:
    shell.run("catalog", "apply", "-f", CATALOG)
    cheaper = shell.file(Path(CATALOG).read_text().replace('input: "0.15"', 'input: "0.14"'))
    shell.run("catalog", "apply", "-f", cheaper)
    assert "another amount becomes revision 2" in shell.err
    model = next(entry for entry in shell.json("catalog", "list") if entry["name"] == "sim-small")
    assert [(price["from"], price["input"], price["revision"]) for price in model["prices"]] == [
        ("2025-01-01T00:00:00.000Z", "0.20", 1),
        ("2026-11-01T00:00:00.000Z", "0.15", 1),
        ("2026-11-01T00:00:00.000Z", "0.14", 2),
    ]
    assert shell.run("catalog", "diff", "-f", cheaper) == "no changes\n"


def test_a_second_apply_in_between_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.run("tenants", "apply", "-f", TENANTS)
    ends = MemoryReader.ends

    async def one_behind(reader: MemoryReader, topic: str) -> dict[int, int]:
        return {
            partition: end - (topic == "fairlane.tenants") for partition, end in (await ends(reader, topic)).items()
        }

    monkeypatch.setattr(MemoryReader, "ends", one_behind)
    shell.run("tenants", "apply", "-f", TENANTS)
    assert "somebody else applied at the same time" in shell.err


def test_topics_lists_the_registry_with_what_the_broker_has(shell: Shell) -> None:
    shell.run("catalog", "apply", "-f", CATALOG)
    rows = {row["topic"]: row for row in shell.json("topics")}
    assert rows["fairlane.catalog"]["records"] == 9
    assert rows["fairlane.lanes.sim"]["partitions"] == 16
    assert rows["fairlane.results"]["records"] == 0
    assert shell.json("topics", "list") == list(rows.values())


def test_topics_lists_the_registry_without_a_broker(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_runs(*_need: str) -> Settings:
        raise Retry("no stack runs: run `fairlane up`")

    monkeypatch.setattr(connections, "resolved_settings", nothing_runs)
    rows = shell.json("topics")
    assert {row["topic"] for row in rows} == {f"fairlane.{spec.name}" for spec in TOPICS}
    assert all(row["partitions"] is None for row in rows)
    assert "run `fairlane up`" in shell.err


def test_topics_create_makes_what_is_missing_once(shell: Shell) -> None:
    created = shell.json("topics", "create", "--pool", "gpu")
    assert "fairlane.lanes.gpu" in created
    assert "fairlane.requests" in created
    assert shell.run("topics", "create") == "all topics exist\n"


def test_dead_letters_are_listed_shown_and_redriven(shell: Shell) -> None:
    shell.log.create_topics("fairlane.")
    name = shell.letter(b'{"a":\x1b]0;title\x07')
    assert name in shell.run("dlq", "list")
    assert [letter["dead_letter_id"] for letter in shell.json("dlq", "list", "--code", "invalid_json")] == [name]
    assert shell.json("dlq", "list", "--code", "too_large") == []

    shown = shell.json("dlq", "show", name)
    assert shown["source"] == {
        "timestamp_ms": shown["source"]["timestamp_ms"], "key_bytes": 1, "fault": None, "headers": ["trace\\x1bparent"],
    }  # fmt: skip
    with_payload = shell.run("dlq", "show", name, "--payload")
    assert 'source.payload: {"a":\\x1b]0;title\\x07\n' in with_payload
    assert "\x1b" not in with_payload

    assert shell.run("dlq", "redrive", name) == "1 redriven\n"
    sent = shell.log.records("fairlane.requests")
    assert [record.value for record in sent] == [sent[0].value] * 2
    assert shell.run("dlq", "redrive", name, code=1) == "0 redriven, 1 not\n"
    assert "--again sends it once more" in shell.err
    assert shell.run("dlq", "redrive", name, "--again") == "1 redriven\n"
    assert shell.json("dlq", "redrive", "--all") == []


def test_all_open_dead_letters_of_a_code_are_redriven_and_what_is_gone_is_told(shell: Shell) -> None:
    shell.log.create_topics("fairlane.")
    names = [shell.letter(b"{"), shell.letter(b"[")]
    partition = int(names[0].split("/")[1])
    shell.log.trim("fairlane.requests", partition, 1)
    outcomes = shell.json("dlq", "redrive", "--all", "--code", "invalid_json", code=1)
    assert [outcome["redriven"] for outcome in outcomes] == [False, True]
    assert "no longer keeps the record" in outcomes[0]["reason"]
    assert "source: no longer kept" in shell.run("dlq", "show", names[0])


@pytest.mark.parametrize(
    "arguments",
    [["dlq", "redrive"], ["dlq", "redrive", "x", "--all"], ["dlq", "redrive", "x", "--code", "internal"],
     ["dlq", "redrive", "--all", "--again"], ["dlq", "show", "none"], ["dlq", "redrive", "none"]],
)  # fmt: skip
def test_wrong_use_of_dlq_is_told(shell: Shell, arguments: list[str]) -> None:
    shell.log.create_topics("fairlane.")
    shell.run(*arguments, code=2)
    assert shell.err


def test_usage_shows_what_each_applied_tenant_holds(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        def __init__(self, url: str, key_prefix: str) -> None:
            assert key_prefix == "fairlane."

        async def usage(self, tenant_ids: list[str]) -> list[TenantUsage]:
            return [TenantUsage(10 + index, 20, 3, 1) for index, _ in enumerate(tenant_ids)]

        async def close(self) -> None:
            pass

    monkeypatch.setattr(redis_admission, "RedisAdmissionStore", Store)
    shell.run("tenants", "apply", "-f", TENANTS)
    assert shell.json("tenants", "usage")[1] == {
        "tenant_id": "beacon",
        "held_nano_usd": 11,
        "spent_nano_usd": 20,
        "undispatched": 3,
        "in_flight": 1,
    }


def test_the_example_catalog_finds_the_simulator_of_any_stack(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAIRLANE_SIMULATOR_URL", raising=False)
    shell.run("catalog", "apply", "-f", CATALOG)
    assert shell.json("catalog", "list")[0]["base_url"] == "http://127.0.0.1:47111/v1"
    assert "SIM_KEY" not in shell.err


def test_applying_a_provider_whose_key_is_not_set_names_the_variable(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACME_LLM_KEY", raising=False)
    file = shell.file('providers: [{provider: acme, base_url: "https://llm.example/v1", key: env:ACME_LLM_KEY}]')
    shell.run("catalog", "apply", "-f", file)
    assert "warning: the key of provider acme is the variable ACME_LLM_KEY, which is not set" in shell.err
    monkeypatch.setenv("ACME_LLM_KEY", "open-sesame")
    shell.run("catalog", "apply", "-f", file)
    assert "ACME_LLM_KEY" not in shell.err
    assert "open-sesame" not in shell.err


@pytest.mark.parametrize("arguments", [["dlq", "list"], ["dlq", "redrive", "--all"]])
def test_a_code_that_does_not_exist_is_refused_with_those_that_do(shell: Shell, arguments: list[str]) -> None:
    shell.log.create_topics("fairlane.")
    assert shell.run(*arguments, "--code", "invalid_jsn", code=2) == ""
    assert "'invalid_jsn' is no error code" in shell.err
    assert "invalid_json, schema_violation" in shell.err
