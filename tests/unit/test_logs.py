"""The log: JSON lines with ids, for our messages and those of libraries, and never a request's content."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import BaseModel

from fairlane.errors import Retry
from fairlane.logs import configure_logging, debug_wanted, get_logger, told

SECRET = "the patient's name"


class Lines:
    def __init__(self) -> None:
        self.out = io.StringIO()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.all[-1]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    lines = Lines()
    configure_logging("gate", "gate-1", "info", stream=lines.out)
    yield lines
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    logging.captureWarnings(False)


def test_a_message_is_one_json_line_with_stage_process_and_ids(lines: Lines) -> None:
    get_logger("fairlane.agents.gate").info("admitted", request_id="r-1", tenant_id="acme", trace_id="ab")
    assert lines.last.pop("time").endswith("Z")
    assert {k: v for k, v in lines.last.items() if k != "time"} == {
        "level": "info",
        "stage": "gate",
        "process": "gate-1",
        "logger": "fairlane.agents.gate",
        "event": "admitted",
        "request_id": "r-1",
        "tenant_id": "acme",
        "trace_id": "ab",
    }


def test_a_field_that_is_not_allowed_is_dropped_and_named(lines: Lines) -> None:
    get_logger("x").info("got a request", body={"messages": SECRET}, prompt=SECRET, records=3)
    assert lines.last["dropped_fields"] == ["body", "prompt"]
    assert lines.last["records"] == 3
    assert SECRET not in lines.out.getvalue()


def test_an_object_in_an_allowed_field_is_told_by_its_type(lines: Lines) -> None:
    get_logger("x").info("odd", reason={"body": SECRET}, hint=SECRET.encode())
    assert (lines.last["reason"], lines.last["hint"]) == ("<dict>", "<bytes>")
    assert SECRET not in lines.out.getvalue()


def test_messages_below_the_level_are_left_out(lines: Lines) -> None:
    get_logger("x").debug("noise")
    assert lines.all == []


@pytest.mark.parametrize(("level", "wanted"), [("debug", True), ("info", False), ("error", False)])
def test_whether_debug_messages_are_written_can_be_asked_before_one_is_made(level: str, wanted: bool) -> None:
    out = io.StringIO()
    configure_logging("gate", "gate-1", level, stream=out)
    get_logger("x").debug("noise")
    assert (debug_wanted(), bool(out.getvalue())) == (wanted, wanted)


def test_debug_messages_are_written_until_the_log_is_set_up() -> None:
    structlog.reset_defaults()
    assert debug_wanted()


def test_an_exception_tells_its_class_and_code_lines_but_not_the_input_it_quotes(lines: Lines) -> None:
    class Model(BaseModel):
        count: int

    try:
        try:
            Model.model_validate({"count": SECRET})
        except ValueError as failure:
            raise KeyError(SECRET) from failure
    except KeyError:
        get_logger("x").exception("a bug")
    assert lines.last["error"] == "KeyError"
    assert any("ValidationError" in line for line in lines.last["exception"])
    assert any("test_logs.py" in line for line in lines.last["exception"])
    assert SECRET not in lines.out.getvalue()


def test_our_own_errors_keep_their_text() -> None:
    assert told(Retry("the broker is away")) == "fairlane.errors.Retry: the broker is away"


@pytest.mark.parametrize("library", ["aiokafka.consumer", "faust.agents", "aiohttp.server", "asyncio"])
def test_libraries_speak_in_the_same_json_from_warning_on(lines: Lines, library: str) -> None:
    logging.getLogger(library).info("chatter")
    logging.getLogger(library).warning("partition %d of %s is stuck", 3, "requests")
    assert [(line["logger"], line["level"], line["event"]) for line in lines.all] == [
        (library, "warning", "partition 3 of requests is stuck")
    ]
    assert lines.last["stage"] == "gate"


def test_an_object_a_library_logs_is_told_by_its_type(lines: Lines) -> None:
    logging.getLogger("faust.agents").error("crashed on %r", {"body": SECRET})
    assert lines.last["event"] == "crashed on '<dict>'"
    assert SECRET not in lines.out.getvalue()


def test_configuring_twice_does_not_double_the_lines(lines: Lines) -> None:
    configure_logging("gate", "gate-1", "info", stream=lines.out)
    logging.getLogger("aiokafka").warning("once")
    assert len(lines.all) == 1


def test_an_unknown_level_is_told_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        configure_logging("gate", "gate-1", "loud")
