"""The little a front must know of a statement's text; everything else is the engine's to parse.

Text stays bytes: the data of an INSERT follows its statement and may be binary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""(?P<space>\s++ | --[^\n]*+ | \#[ !][^\n]*+ | /\*.*?\*/)
    | (?P<quoted>'(?:[^'\\]++|\\.|'')*+' | "(?:[^"\\]++|\\.|"")*+" | `(?:[^`\\]++|\\.|``)*+`
        | \$(?P<tag>\w*+)\$.*?\$(?P=tag)\$)
    | (?P<word>\w++)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_AFTER_FORMAT = re.compile(rb"[ \t\f]*;?\r?\n?")
_NO_INLINE_DATA = frozenset({b"SELECT", b"WITH", b"FROM", b"WATCH", b"EXPLAIN"})


@dataclass(frozen=True, slots=True)
class Insert:
    """An INSERT with its data beside it: ``head`` up to the format, ``data_at`` where the data begins.

    ``settings_at`` is where in the head its settings begin, its end where it has none.
    """

    head: bytes
    input_format: str
    data_at: int
    settings_at: int


@dataclass(frozen=True, slots=True)
class Statement:
    """``insert`` is set where data follows in the text, ``output_format`` where the text names one."""

    insert: Insert | None = None
    output_format: str | None = None
    several: bool = False
    """More than one statement: a server refuses that over HTTP."""


def inspect(text: bytes) -> Statement:
    """Find an INSERT's format and data, or the format a query asks for.

    Of an INSERT only the part before its data is read. Text the engine would refuse gives an empty
    :class:`Statement`, so that the refusal is the engine's.
    """
    tokens = _tokens(text)
    first = next(tokens, None)
    if first is None:
        return Statement()
    if first.word == b"INSERT":
        return Statement(insert=_insert(text, tokens))
    return _query(tokens)


@dataclass(slots=True)
class _Token:
    word: bytes | None
    raw: bytes
    start: int
    end: int


def _tokens(text: bytes) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "space" and match["space"] is None:
            word = match["word"]
            yield _Token(word.upper() if word is not None else None, match[0], match.start(), match.end())


def _insert(text: bytes, tokens: Iterator[_Token]) -> Insert | None:
    depth = 0
    named = False  # the table may be called `format` or `values`
    after_dot = False
    settings_at: int | None = None

    def found(head: bytes, input_format: str, data_at: int) -> Insert:
        return Insert(head, input_format, data_at, len(head) if settings_at is None else settings_at)

    for token in tokens:
        if token.raw in (b"(", b"["):
            depth += 1
            named = True
        elif token.raw in (b")", b"]"):
            depth -= 1
        elif depth:
            continue
        elif not named or after_dot:
            named = token.word not in (b"INTO", b"TABLE", b"FUNCTION")
        elif token.word in _NO_INLINE_DATA:
            return None
        elif token.word == b"SETTINGS" and settings_at is None:
            settings_at = token.start
        elif token.word == b"VALUES":
            return found(text[: token.start], "Values", token.end)
        elif token.word == b"FORMAT":
            name = next(tokens, None)
            if name is None or name.word is None:
                return None
            if name.word == b"VALUES":
                return found(text[: token.start], "Values", name.end)
            gap = _AFTER_FORMAT.match(text, name.end)
            assert gap is not None  # the pattern matches the empty string
            return found(text[: token.start], name.raw.decode("ascii", "replace"), gap.end())
        after_dot = token.raw == b"."
    return None


def _query(tokens: Iterator[_Token]) -> Statement:
    output_format: str | None = None
    depth = 0
    expecting = in_settings = ended = False
    for token in tokens:
        if ended and token.raw != b";":
            return Statement(several=True)
        if token.raw == b";":
            ended = True
        elif expecting and token.word is not None:
            output_format = token.raw.decode("ascii", "replace")
            expecting = in_settings = False
        else:
            in_settings = in_settings or token.word == b"SETTINGS"
            if not in_settings:
                output_format = None  # more follows: it was a column or an alias called format
            depth += (token.raw in (b"(", b"[")) - (token.raw in (b")", b"]"))
            expecting = depth == 0 and token.word == b"FORMAT"
    return Statement(output_format=output_format)
