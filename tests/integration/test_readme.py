"""The clients of README.md work as they are written there, on a running stack."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.running_chain import Chain
from tests.source_tree import ROOT

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CLIENT_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def chain(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    chain = Chain(kafka_bootstrap, redis_url, clickhouse_url, tmp_path_factory.mktemp("readme"))
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


def snippet(chain: Chain, marker: str) -> tuple[str, str]:
    """The one code block that holds ``marker``, with the names of this chain in place of the defaults."""
    found = [(kind, text) for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if marker in text]
    assert len(found) == 1, f"{len(found)} blocks of README.md hold {marker!r}"
    kind, text = found[0]
    text = re.sub(r"fairlane\.(requests|results)\b", chain.prefix + r"\1", text)
    return kind, re.sub(r'database=("?)fairlane\b', rf"database=\1{chain.database}", text)


def run(chain: Chain, kind: str, text: str) -> str:
    command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, env=chain.env, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")
async def test_kcat_sends_and_reads(chain: Chain) -> None:
    key, _, value = run(chain, *snippet(chain, "kcat -P")).partition(" ")
    assert key.startswith("acme/")
    assert '"schema":"fairlane.result.v1"' in value
    async with asyncio.timeout(30):
        while not (mine := [r for r in await chain.read("results", 1) if r["request_id"].startswith("kcat-")]):
            pass
    assert mine[0]["status"] == "succeeded"


def test_confluent_kafka_sends_and_reads(chain: Chain) -> None:
    assert run(chain, *snippet(chain, "confluent_kafka")).startswith("succeeded {'nano_usd': ")


async def test_curl_and_clickhouse_connect_read_what_was_asked(chain: Chain) -> None:
    await chain.produce(
        [
            {"schema": "fairlane.request.v1", "request_id": f"sql-{number}", "tenant_id": "acme", "body": body}
            for number, body in enumerate(
                (
                    {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16},
                    {"model": "nowhere", "messages": [{"role": "user", "content": "Hello"}]},
                )
            )
        ]
    )
    await chain.results(until=2)
    async with asyncio.timeout(30):
        while len(await chain.sql("SELECT request_id FROM requests WHERE request_id LIKE 'sql-%'")) < 2:
            pass
    assert "acme" in run(chain, *snippet(chain, "curl "))
    assert "unknown_model 1" in run(chain, *snippet(chain, "clickhouse_connect"))


@pytest.mark.parametrize("command", ["fairlane send", "fairlane status"])
def test_the_tour_of_the_command_line_works(chain: Chain, command: str) -> None:
    (line,) = re.findall(rf"^{command}.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    script = line.split(" #")[0].replace("fairlane", f"'{sys.executable}' -m fairlane", 1)
    assert run(chain, "sh", script)
