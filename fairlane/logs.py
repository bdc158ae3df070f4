"""The log: one JSON object a line on stderr, for our own messages and those of libraries alike.

A request's content never enters it. Field names come from an allow list; an exception is told by its
classes and code lines, and by its text only where that text is known to be about code, the network
or our own rules (pydantic and ClickHouse quote the input in theirs).
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from fairlane.errors import FairlaneError

Logger = FilteringBoundLogger
"""What :func:`get_logger` returns: ``debug``, ``info``, ``warning``, ``error``, ``exception``."""

LOG_FIELDS = frozenset({
    # who and where
    "time", "level", "logger", "logger_name", "event", "stage", "process", "pid", "request_id", "tenant_id", "trace_id",
    "idempotency_key", "dead_letter_id", "decision_id", "attempt_id",
    # what was touched
    "topic", "topics", "partition", "partitions", "offset", "first_offset", "last_offset", "group", "pool",
    "provider", "model", "route", "table", "migration",
    "engine", "instance", "generation", "epoch", "config_version", "setting", "path", "port", "address", "service",
    # how it went
    "code", "status", "reason", "hint", "field", "attempt", "http_status", "exit_code", "signal", "operation",
    "error", "exception", "dropped_fields",
    # how much
    "records", "results", "joined", "rows", "bytes", "count", "limit", "used", "waiting", "in_flight", "unfinished",
    "lag", "after_s", "duration_ms", "timeout_ms", "delay_ms", "version",
})  # fmt: skip
"""The only field names of the log. Anything else is dropped, and its name told in ``dropped_fields``."""

TEXT_MAX = 500
_ITEMS_MAX = 100
_FRAMES_MAX = 20
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LIBRARIES = ("aiokafka", "faust", "mode", "aiohttp", "asyncio", "redis", "urllib3", "clickhouse_connect", "stamina")
_DEBUG_LOGGERS = tuple(structlog.make_filtering_bound_logger(level) for level in (logging.NOTSET, logging.DEBUG))
_TELLING = (FairlaneError, OSError, TypeError, AttributeError, NameError, ImportError, NotImplementedError)
_TELLING_MODULES = ("aiokafka.", "redis.", "aiohttp.", "asyncio.")


def get_logger(name: str) -> Logger:
    """A logger by the name of its module. Nothing happens before the first message."""
    return cast(Logger, structlog.get_logger(logger_name=name))  # `logger` itself is an argument of structlog's


def debug_wanted() -> bool:
    """Whether messages of level debug are written. Ask before one that is made for every record: structlog binds
    a logger anew for each message, also for one that its level then drops.
    """
    return structlog.get_config()["wrapper_class"] in _DEBUG_LOGGERS


def configure_logging(stage: str, process: str, level: str = "info", *, stream: TextIO | None = None) -> None:
    """Set up the log of this process; ``stream`` is stderr unless given. Libraries speak from WARNING on.

    Raises ValueError for a level that is not debug, info, warning or error.
    """
    if level not in _LEVELS:
        raise ValueError(f"log level {level!r} is unknown; use {', '.join(_LEVELS)}")
    out = stream or sys.stderr

    def line(fields: MutableMapping[str, Any]) -> str:
        return _line(fields, stage, process)

    def render(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
        return line(fields)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _tell_exception,
            allow_fields,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _JsonHandler):
            root.removeHandler(old)
    root.addHandler(_JsonHandler(out, line))
    root.setLevel(logging.WARNING)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    # One line a request of our own health endpoint and simulator would drown everything else.
    logging.getLogger("aiohttp.access").setLevel(logging.ERROR)
    logging.captureWarnings(True)


def allow_fields(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    """A structlog processor that drops every field whose name is not in :data:`LOG_FIELDS`."""
    unknown = [name for name in fields if name not in LOG_FIELDS]
    for name in unknown:
        del fields[name]
    if unknown:
        fields["dropped_fields"] = sorted(unknown)
    return fields


def told(failure: BaseException) -> str:
    """An exception in one line that cannot hold a request's content: its class, and its text if that is safe."""
    kind = type(failure)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(failure, _TELLING) or kind.__module__.startswith(_TELLING_MODULES):
        text = str(failure)
        return f"{name}: {text}"[:TEXT_MAX] if text else name
    return name


def _tell_exception(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    info = fields.pop("exc_info", None)
    failure = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(failure, BaseException):
        fields["error"] = told(failure)
        fields["exception"] = _chain(failure)
    return fields


def _chain(failure: BaseException) -> list[str]:
    """The exception and its causes with their code lines, innermost call last; never values."""
    lines: list[str] = []
    current: BaseException | None = failure
    while current is not None and len(lines) < _ITEMS_MAX:
        lines.append(told(current))
        lines.extend(_frames(current.__traceback__))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return lines


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)[-_FRAMES_MAX:]]


def _line(fields: MutableMapping[str, Any], stage: str, process: str) -> str:
    head = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": fields.pop("level", "info"),
        "stage": stage,
        "process": process,
        "logger": fields.pop("logger_name", None),
    }
    body = {name: _plain(value) for name, value in fields.items()}
    return orjson.dumps(head | body, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: Any) -> Any:
    """A value as the log may show it: scalars and short texts as they are, any other object by its type."""
    match value:
        case None | bool() | float():
            return value
        case int():
            return value if abs(value) < 2**63 else str(value)
        case str():
            return value if len(value) <= TEXT_MAX else value[:TEXT_MAX] + "…"
        case BaseException():
            return told(value)
        case tuple() | list() | set() | frozenset():
            return [_plain(item) for item in list(value)[:_ITEMS_MAX]]
        case _:
            return f"<{type(value).__qualname__}>"


class _JsonHandler(logging.Handler):
    """Turns the messages of libraries into lines of our log."""

    def __init__(self, out: TextIO, line: Callable[[MutableMapping[str, Any]], str]) -> None:
        super().__init__()
        self._out = out
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {
            "level": record.levelname.lower(),
            "logger_name": record.name,
            "event": self._text(record),
            "exc_info": record.exc_info,
        }
        try:
            self._out.write(self._line(_tell_exception(None, "", fields)) + "\n")
            self._out.flush()
        except (ValueError, OSError):
            self.handleError(record)

    @staticmethod
    def _text(record: logging.LogRecord) -> str:
        # Libraries pass whole records and messages as arguments; by type is all we may say of those.
        args: Any = record.args or ()
        named = isinstance(args, dict) and "%(" in str(record.msg)
        shown: Any = (
            {name: _argument(value) for name, value in args.items()}
            if named
            else tuple(_argument(value) for value in (args if isinstance(args, tuple) else (args,)))
        )
        try:
            return str(record.msg) % shown if shown else str(record.msg)
        except (TypeError, ValueError, KeyError):
            return str(record.msg)


def _argument(value: Any) -> Any:
    plain = _plain(value)
    return ", ".join(str(item) for item in plain) if isinstance(plain, list) else plain
