"""The engine's exceptions as a server reports them: a code, a name and an HTTP status."""

from __future__ import annotations

import re
from dataclasses import dataclass

_CODE = re.compile(r"Code: (\d+)\. (?:DB::)?Exception: ")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)\s*$")

_STATUS_BY_NAME: dict[str, int] = (
    dict.fromkeys(
        ("CANNOT_PARSE_TEXT", "CANNOT_PARSE_ESCAPE_SEQUENCE", "CANNOT_PARSE_QUOTED_STRING", "CANNOT_PARSE_DATE",
         "CANNOT_PARSE_DATETIME", "CANNOT_PARSE_NUMBER", "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING",
         "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "CANNOT_READ_ALL_DATA", "BAD_ARGUMENTS", "BAD_QUERY_PARAMETER",
         "UNKNOWN_QUERY_PARAMETER", "CANNOT_COMPILE_REGEXP", "DUPLICATE_COLUMN", "ILLEGAL_COLUMN",
         "THERE_IS_NO_COLUMN", "UNKNOWN_ELEMENT_IN_AST", "UNKNOWN_TYPE_OF_AST_NODE", "TOO_DEEP_AST", "TOO_BIG_AST",
         "UNEXPECTED_AST_STRUCTURE", "SYNTAX_ERROR", "INCORRECT_DATA", "TYPE_MISMATCH",
         "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"), 400,
    )
    | dict.fromkeys(("READONLY", "ACCESS_DENIED"), 403)
    | dict.fromkeys(
        ("UNKNOWN_TABLE", "UNKNOWN_FUNCTION", "UNKNOWN_IDENTIFIER", "UNKNOWN_TYPE", "UNKNOWN_STORAGE",
         "UNKNOWN_DATABASE", "UNKNOWN_SETTING", "UNKNOWN_DIRECTION_OF_SORTING", "UNKNOWN_AGGREGATE_FUNCTION",
         "UNKNOWN_FORMAT", "UNKNOWN_DATABASE_ENGINE", "UNKNOWN_TYPE_OF_QUERY", "NO_ELEMENTS_IN_CONFIG"), 404,
    )
    | {"TIMEOUT_EXCEEDED": 408, "QUERY_IS_TOO_LARGE": 413, "NOT_IMPLEMENTED": 501, "SUPPORT_IS_DISABLED": 501,
       "TOO_MANY_SIMULTANEOUS_QUERIES": 503, "CANNOT_SCHEDULE_TASK": 503, "MEMORY_LIMIT_EXCEEDED": 507}
)  # fmt: skip
"""After ``exceptionCodeToHTTPStatus`` of ClickHouse's ``src/Server/HTTP/exceptionCodeToHTTPStatus.cpp``."""


@dataclass
class QueryFailed(Exception):
    """A query that failed, as the client is told: ``Code: 60. DB::Exception: … (UNKNOWN_TABLE)``."""

    code: int
    name: str
    message: str
    status: int = 500

    @property
    def text(self) -> str:
        """The body of the answer, without the server's version."""
        return f"Code: {self.code}. DB::Exception: {self.message} ({self.name})"


def from_engine(text: str) -> QueryFailed:
    """Read code and name from the engine's message; what it says around them is dropped."""
    text = text.strip()
    found = _CODE.search(text)
    if found is None:
        return QueryFailed(1002, "UNKNOWN_EXCEPTION", text)
    message = text[found.end() :]
    name = _NAME.search(message)
    if name is None:
        return QueryFailed(int(found[1]), "UNKNOWN_EXCEPTION", message)
    return QueryFailed(int(found[1]), name[1], message[: name.start()].rstrip(), _STATUS_BY_NAME.get(name[1], 500))


def not_supported(what: str) -> QueryFailed:
    """For parts of the protocol that only a real server has."""
    return QueryFailed(48, "NOT_IMPLEMENTED", f"{what} is not supported here; use a ClickHouse server", 501)
