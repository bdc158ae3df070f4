"""The examples, `send`, `tail` and `explain` on a running chain."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping

import clickhouse_connect
import pytest
from confluent_kafka import Consumer, Producer

from tests.integration.running_chain import Chain
from tests.source_tree import ROOT

EXAMPLES = ROOT / "examples"
TIMEOUT_S = 90


@pytest.fixture(scope="module")
def chain(
    kafka_bootstrap: str, redis_url: str, clickhouse_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    chain = Chain(kafka_bootstrap, redis_url, clickhouse_url, tmp_path_factory.mktemp("clients"))
    try:
        chain.up()
        yield chain
    finally:
        chain.down()


def run(chain: Chain, *command: str, stdin: str | None = None, code: int = 0) -> str:
    done = subprocess.run(
        command, env=chain.env, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fairlane(chain: Chain, *arguments: str, stdin: str | None = None, code: int = 0) -> str:
    return run(chain, sys.executable, "-m", "fairlane", *arguments, stdin=stdin, code=code)


def sent(chain: Chain, *options: str) -> str:
    """Send a prompt and wait; returns the request's id."""
    result = json.loads(fairlane(chain, "send", "Hello", "--tenant", "acme", "--wait", "--json", *options))
    request_id: str = result["request_id"]
    return request_id


def test_an_example_asks_and_shows_answer_cost_and_time(chain: Chain) -> None:
    shown = run(chain, sys.executable, str(EXAMPLES / "01_ask.py"), "Say something")

    assert re.search(r"^tokens   \d+ in, \d+ out$", shown, re.MULTILINE)
    assert re.search(r"^cost     \$0\.\d{9} at sim-small@", shown, re.MULTILINE)


def test_an_example_prints_a_stream_whose_words_are_the_tokens_billed(chain: Chain) -> None:
    *text, last = run(chain, sys.executable, str(EXAMPLES / "02_stream.py")).splitlines()

    tokens = re.fullmatch(r"succeeded, (\d+) tokens", last)
    assert tokens
    assert len(" ".join(text).split()) == int(tokens[1])


@pytest.mark.skipif(
    shutil.which("kcat") is None, reason="kcat is a package of the system; the next test sends its bytes"
)
def test_the_kcat_example_sends_and_reads(chain: Chain) -> None:
    key, _, value = run(chain, "bash", str(EXAMPLES / "03_kcat.sh")).partition(" ")

    assert key.startswith("acme/kcat-")
    assert json.loads(value)["status"] == "succeeded"


def test_the_bytes_of_the_kcat_example_are_answered_whoever_sends_them(chain: Chain) -> None:
    script = (EXAMPLES / "03_kcat.sh").read_text()
    template = re.search(r"^printf '(\{.*\})\\n'", script, re.MULTILINE)
    assert template
    producer = Producer({"bootstrap.servers": chain.kafka})
    producer.produce(f"{chain.prefix}requests", template[1].replace("%s", "as-kcat-would").encode())
    producer.flush()

    consumer = Consumer({"bootstrap.servers": chain.kafka, "group.id": "as-kcat", "auto.offset.reset": "earliest"})
    consumer.subscribe([f"{chain.prefix}results"])
    try:
        while True:
            message = consumer.poll(TIMEOUT_S)
            assert message is not None
            if message.key() == b"acme/as-kcat-would":
                assert json.loads(message.value() or b"")["status"] == "succeeded"
                return
    finally:
        consumer.close()


def test_the_examples_read_costs_and_refusals_with_sql(chain: Chain) -> None:
    # Records of a partition become rows in order; another partition may lag, so each is waited for.
    request_id = sent(chain)
    refused = json.loads(fairlane(chain, "send", "Hello", "--tenant", "nobody", "--wait", "--json", code=1))
    rows_of(chain, request_id)
    rows_of(chain, refused["request_id"], {"requests": 1, "decisions": 1})

    assert re.search(
        r"^acme +sim-small +\d+ +\d+ ", run(chain, sys.executable, str(EXAMPLES / "04_costs.py")), re.MULTILINE
    )
    if shutil.which("curl"):
        assert "unknown_tenant" in run(chain, "bash", str(EXAMPLES / "05_sql_over_http.sh"))


def test_every_question_in_sql_runs_as_it_stands(chain: Chain) -> None:
    rows_of(chain, sent(chain))
    client = clickhouse_connect.get_client(dsn=chain.clickhouse, database=chain.database)
    text = re.sub(r"^--.*$", "", (EXAMPLES / "06_questions.sql").read_text(), flags=re.MULTILINE)
    statements = [statement for statement in text.split(";") if statement.strip()]

    answers = [client.query(statement).result_rows for statement in statements]

    assert len(answers) == 10
    assert answers[0][0][0] == "acme"
    client.close()


def test_a_batch_from_a_file_is_answered_line_by_line(chain: Chain) -> None:
    batch = (EXAMPLES / "07_batch.jsonl").read_text()

    results = fairlane(chain, "send", "-", "--tenant", "acme", "--wait", "--json", stdin=batch).splitlines()

    assert [json.loads(line)["status"] for line in results] == ["succeeded"] * len(batch.splitlines())


def test_a_refused_request_makes_send_fail_with_the_code_and_what_to_do(chain: Chain) -> None:
    result = json.loads(fairlane(chain, "send", "Hello", "--tenant", "nobody", "--wait", "--json", code=1))

    assert (result["status"], result["error"]["code"]) == ("rejected", "unknown_tenant")
    assert result["error"]["hint"]


def test_the_same_event_sent_again_gets_the_stored_answer_at_no_cost(chain: Chain) -> None:
    event = json.dumps({
        "schema": "fairlane.request.v1", "request_id": "again", "tenant_id": "acme",
        "body": {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]},
    })  # fmt: skip

    first, second = (json.loads(fairlane(chain, "send", "-", "--wait", "--json", stdin=event)) for _ in range(2))

    assert first["response"] == second["response"]
    assert (first["replayed"], second["replayed"]) == (False, True)
    assert first["cost"]["nano_usd"] > second["cost"]["nano_usd"] == 0


def test_tail_shows_what_was_sent(chain: Chain) -> None:
    request_id = sent(chain)

    lines = fairlane(chain, "tail", "--tenant", "acme", "--no-follow").splitlines()

    assert any(request_id in line and "succeeded" in line for line in lines)


def test_explain_tells_the_story_at_once_from_the_log_and_later_from_clickhouse(chain: Chain) -> None:
    request_id = sent(chain, "--label", "project=search")

    at_once = json.loads(fairlane(chain, "explain", request_id, "--json"))
    rows_of(chain, request_id)
    later = json.loads(fairlane(chain, "explain", request_id, "--tenant", "acme", "--json"))

    what = ["received", "admitted", "dispatched", "attempt 1", "attempt 1", "result"]
    assert [event["what"] for event in at_once["events"]] == what
    assert [event["what"] for event in later["events"]] == what
    assert later["sources"] == ["clickhouse"]
    assert at_once["headline"] == later["headline"]
    assert at_once["result"]["cost"] == later["result"]["cost"]


def test_explain_of_a_refusal_says_which_rule_it_was(chain: Chain) -> None:
    fairlane(chain, "send", "-", "--wait", code=1, stdin=json.dumps({
        "schema": "fairlane.request.v1", "request_id": "refused-1", "tenant_id": "acme",
        "body": {"model": "no-such-model", "messages": [{"role": "user", "content": "Hi"}]},
    }))  # fmt: skip

    shown = fairlane(chain, "explain", "refused-1", "--tenant", "acme")

    assert "rejected" in shown
    assert "unknown_model" in shown


def test_explain_of_an_unknown_request_fails(chain: Chain) -> None:
    fairlane(chain, "explain", "no-such-request", code=1)


STORY = {"requests": 1, "attempts": 1, "decisions": 2}


def rows_of(chain: Chain, request_id: str, least: Mapping[str, int] = STORY) -> None:
    """Wait until ClickHouse has the story of a request: its row, its attempt and both decisions unless said."""
    import time

    client = clickhouse_connect.get_client(dsn=chain.clickhouse, database=chain.database)
    deadline = time.monotonic() + 30
    while True:
        counts = [
            client.query(
                f"SELECT count() FROM {table} WHERE request_id = {{id:String}}", {"id": request_id}
            ).result_rows[0][0]
            for table in least
        ]
        if all(count >= wanted for count, wanted in zip(counts, least.values(), strict=True)):
            client.close()
            return
        assert time.monotonic() < deadline, f"rows after 30 s: {counts}"
        time.sleep(0.1)
