"""A JSON reader of its own (RFC 8259), for the oracle: no recursion, and it notes which further rules are broken.

It shares no code and no library with the product's readers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"([^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*)"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r'\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|["\\/bfnrt])')
_LITERALS = (("true", True), ("false", False), ("null", None))
_CONSTANTS = ("NaN", "Infinity", "-Infinity")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
SMALLEST_INT, LARGEST_INT = -(2**63), 2**64 - 1


class NotJson(ValueError):
    """The text breaks the grammar."""


@dataclass
class Document:
    """What was read. ``breaches`` names the rules broken beside the grammar."""

    value: Any = None
    depth: int = 0
    breaches: set[str] = field(default_factory=set)
    own_key_twice: bool = False


class _Members(dict[str, Any]):
    key: str | None = None
    surrogate = False


def read(text: str) -> Document:
    """Read one document; raises :class:`NotJson`."""
    found = Document()
    open_: list[_Members | list[Any]] = []
    at, wants_value = 0, True
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if wants_value:
            at, value = _begin(text, at, found, open_)
            if value is _OPENED:
                found.depth = max(found.depth, len(open_))
                at, wants_value = _first_member(text, at, open_[-1])
                if wants_value:
                    continue
                value = open_.pop()
        else:
            value = open_.pop()
        # A value is complete: put it where it belongs, then see what follows.
        if not open_:
            if _SPACE.match(text, at).end() != len(text):  # type: ignore[union-attr]
                raise NotJson("text after the document")
            found.value = value
            return found
        at, wants_value = _put(text, at, value, open_, found)


_OPENED = object()


def _begin(text: str, at: int, found: Document, open_: list[Any]) -> tuple[int, Any]:
    start = text[at : at + 1]
    if start == "{":
        open_.append(_Members())
        return at + 1, _OPENED
    if start == "[":
        open_.append([])
        return at + 1, _OPENED
    if start == '"':
        return _string(text, at, found)
    for word, meaning in _LITERALS:
        if text.startswith(word, at):
            return at + len(word), meaning
    for word in _CONSTANTS:
        if text.startswith(word, at):
            found.breaches.add("constant")
            return at + len(word), 0.0
    match = _NUMBER.match(text, at)
    if match is None:
        raise NotJson("no value")
    return match.end(), _number(match, found)


def _number(match: re.Match[str], found: Document) -> Any:
    if match[1] is None and match[2] is None:
        digits = match[0]
        # Twenty digits are the most that 64 bits can need; int() of many would be slow.
        number = int(digits) if len(digits) <= 21 else LARGEST_INT + 1
        if not SMALLEST_INT <= number <= LARGEST_INT:
            found.breaches.add("range")
        return number
    real = float(match[0])
    if real in (float("inf"), float("-inf")):
        found.breaches.add("range")
    return real


def _string(text: str, at: int, found: Document) -> tuple[int, str]:
    match = _STRING.match(text, at)
    if match is None:
        raise NotJson("no string")

    def meant(escape: re.Match[str]) -> str:
        body = escape[1]
        if body[0] != "u":
            return _SHORT.get(body, body)
        if len(body) > 5:
            return bytes.fromhex(body[1:5] + body[7:]).decode("utf-16-be")
        code = int(body[1:], 16)
        if 0xD800 <= code <= 0xDFFF:
            found.breaches.add("surrogate")
        return chr(code)

    return match.end(), _ESCAPE.sub(meant, match[1])


def _first_member(text: str, at: int, container: Any) -> tuple[int, bool]:
    """Past an opening bracket; whether a value comes next."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if isinstance(container, list):
        return (at + 1, False) if text[at : at + 1] == "]" else (at, True)
    if text[at : at + 1] == "}":
        return at + 1, False
    return _key(text, at, container)


def _key(text: str, at: int, container: _Members) -> tuple[int, bool]:
    note = Document()
    at, container.key = _string(text, _SPACE.match(text, at).end(), note)  # type: ignore[union-attr]
    container.surrogate |= bool(note.breaches)
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] != ":":
        raise NotJson("no colon")
    return at + 1, True


def _put(text: str, at: int, value: Any, open_: list[Any], found: Document) -> tuple[int, bool]:
    container = open_[-1]
    if isinstance(container, list):
        container.append(value)
    else:
        if container.key in container:
            found.breaches.add("duplicate")
            found.own_key_twice |= len(open_) == 1
        if container.surrogate:
            found.breaches.add("surrogate")
        container[container.key] = value
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    follows = text[at : at + 1]
    if follows == ",":
        at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        if isinstance(container, list):
            return at, True
        return _key(text, at, container)
    if follows == ("]" if isinstance(container, list) else "}"):
        return at + 1, False
    raise NotJson("neither a comma nor an end")
