"""The seeded fuzzer: one to four random changes of an input, of its text as JSON or of its bytes.

Changes of the text keep most documents JSON, whatever is wrong with them, so that the fault itself is tried in many
places and company; changes of bytes mostly end that. What either must get is the oracle's business.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tests.bad_input.case import CANARIES, Input, new_id

TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"null", b"true", b"-", b"0", b"1e9", b"\xff", b"\0", b"\n", b" ",
    b"\\u0000", b"\\ud800", b'""', b"{}", b"[]", b'"a":', b'"body":', b'"tenant_id":', b"\xef\xbb\xbf", b"NaN",
)  # fmt: skip
SCALARS = (b"null", b"true", b"false", b"0", b"-1", b"1", b"1.5", b"-0.0", b"1e3", b"1E-400", b"9007199254740993",
           b"[]", b"{}", b"[null]", b'{"a":1}', b"18446744073709551616", b"1e999", b"NaN")  # fmt: skip
WINDOW = 4000
"""Of a large value, the bytes at its beginning and at its end that are changed: there its fields are."""
CHANGES_OF_TEXT = 0.6
_SPACE = (b" ", b"\n", b"\t", b"\r\n", b"  ", b"\f", b"\xc2\xa0")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)


def fuzzed(rng: random.Random, item: Input) -> Input:
    """The input with changes: of its value, or, where there is none, of what is around it."""
    if item.value and item.batch is None:
        return replace(item, value=mutated(rng, item.value))
    headers = tuple((name, mutated(rng, content)) for name, content in item.headers) or (("x", rng.randbytes(9)),)
    # A tombstone needs its key.
    key = (mutated(rng, item.key) or b"k") if item.key else rng.randbytes(9)
    return replace(item, key=key, headers=headers)


def mutated(rng: random.Random, value: bytes) -> bytes:
    """One to four changes of bytes, or of JSON text where there is some."""
    whole, rest = value, b""
    tail = len(value) > 2 * WINDOW and rng.random() < 0.3
    if tail:
        rest, whole = value[:-WINDOW], value[-WINDOW:]
    elif len(value) > 2 * WINDOW:
        whole, rest = value[:WINDOW], value[WINDOW:]
    change = _change_text if rng.random() < CHANGES_OF_TEXT and b'"' in whole else _change_bytes
    changed = whole
    while changed == whole:  # some changes undo each other, or swap what is the same
        for _ in range(rng.randint(1, 4)):
            changed = change(rng, changed)
    return rest + changed if tail else changed + rest


# --- bytes ------------------------------------------------------------------------------------------


def _change_bytes(rng: random.Random, value: bytes) -> bytes:
    """Bytes flipped, dropped, doubled, moved, or tokens put in."""
    if not value:
        return rng.choice(TOKENS)
    changed = bytearray(value)
    at = rng.randrange(len(changed))
    match rng.randrange(6):
        case 0:
            changed[at] ^= 1 << rng.randrange(8)
        case 1:
            del changed[at : at + rng.randint(1, 8)]
        case 2:
            changed[at:at] = rng.choice(TOKENS)
        case 3:
            end = at + rng.randint(1, 40)
            if not _secret(changed, at, end):
                changed[at:at] = changed[at:end]
        case 4:
            changed[at] = rng.randrange(256)
        case _:
            end = at + rng.randint(1, 20)
            if not _secret(changed, at, end):
                piece = changed[at:end]
                del changed[at:end]
                to = rng.randint(0, len(changed))
                changed[to:to] = piece
    return bytes(changed)


def _secret(value: bytes | bytearray, start: int, end: int) -> bool:
    """Whether a piece has to do with a secret: moved into an id it would be none any more."""
    return any(each in value[max(0, start - len(each)) : end + len(each)] for each in CANARIES)


# --- text -------------------------------------------------------------------------------------------


class _Text(NamedTuple):
    """Where the tokens and the members of objects and lists stand; no recursion, and no need of a whole document."""

    tokens: list[tuple[int, int]]
    members: list[list[tuple[int, int]]]
    """Of each container that is complete: its members, name and all."""


def _read(value: bytes) -> _Text:
    tokens = [match.span() for match in _TOKEN.finditer(value)]
    open_: list[list[tuple[int, int]]] = []
    starts: list[int] = []
    members, end_before = [], 0
    for start, end in tokens:
        mark = value[start:end]
        if mark in (b"{", b"["):
            open_.append([])
            starts.append(end)
        elif open_ and mark in (b",", b"}", b"]"):
            if end_before > starts[-1]:
                open_[-1].append((starts[-1], start))
            starts[-1] = end
            if mark != b",":
                members.append(open_.pop())
                starts.pop()
        end_before = end
    return _Text(tokens, [each for each in members + open_ if each])


def _change_text(rng: random.Random, value: bytes) -> bytes:
    text = _read(value)
    if not text.tokens:
        return _change_bytes(rng, value)
    return rng.choice(_TEXT_CHANGES)(rng, value, text)


def _put_space(rng: random.Random, value: bytes, text: _Text) -> bytes:
    at = rng.choice(rng.choice(text.tokens))
    # A form feed and a no-break space are no white space of JSON.
    return value[:at] + rng.choices(_SPACE, weights=[4, 4, 4, 4, 4, 1, 1])[0] + value[at:]


def _swap_members(rng: random.Random, value: bytes, text: _Text) -> bytes:
    several = [each for each in text.members if len(each) > 1]
    if not several:
        return _put_space(rng, value, text)
    (a, b), (c, d) = sorted(rng.sample(rng.choice(several), 2))
    return value[:a] + value[c:d] + value[b:c] + value[a:b] + value[d:]


def _drop_member(rng: random.Random, value: bytes, text: _Text) -> bytes:
    several = [each for each in text.members if len(each) > 1]
    if not several:
        return _put_space(rng, value, text)
    members = rng.choice(several)
    at = rng.randrange(len(members))
    start, end = (members[at][0], members[at + 1][0]) if at + 1 < len(members) else (members[at - 1][1], members[at][1])
    return value[:start] + value[end:]


def _double_member(rng: random.Random, value: bytes, text: _Text) -> bytes:
    if not text.members:
        return _put_space(rng, value, text)
    start, end = rng.choice(rng.choice(text.members))
    return value[:end] + b"," + value[start:end] + value[end:]


def _add_member(rng: random.Random, value: bytes, text: _Text) -> bytes:
    if not text.members:
        return _put_space(rng, value, text)
    start, end = rng.choice(rng.choice(text.members))
    name = rng.choice(
        [b"note", b"top_k", b"x1", b"maxTokens", new_id(rng).encode(), b"sk_live_" + new_id(rng).encode()]
    )
    named = b":" in value[start:end]
    return value[:start] + (b'"' + name + b'":' if named else b"") + rng.choice(SCALARS) + b"," + value[start:]


def _replace_token(rng: random.Random, value: bytes, text: _Text) -> bytes:
    """A value by another; a name stays, or the member would be another."""
    ends = [(start, end) for start, end in text.tokens if value[start] not in b"{}[],:" and not _is_name(value, end)]
    if not ends:
        return _put_space(rng, value, text)
    start, end = rng.choice(ends)
    new = rng.choice([*SCALARS, b'"%s"' % new_id(rng).encode()])
    return value[:start] + new + value[end:]


def _wrap_value(rng: random.Random, value: bytes, text: _Text) -> bytes:
    values = [(start, end) for start, end in text.tokens if value[start] not in b"{}[],:" and not _is_name(value, end)]
    if not values:
        return _put_space(rng, value, text)
    start, end = rng.choice(values)
    depth = rng.choice([1, 1, 2, 5, 150])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return value[:start] + opening * depth + value[start:end] + closing * depth + value[end:]


def _change_string(rng: random.Random, value: bytes, text: _Text) -> bytes:
    """A letter of a string dropped, doubled, changed or written as its escape."""
    strings = [(start, end) for start, end in text.tokens if value[start] == 34 and end - start > 2]
    if not strings:
        return _put_space(rng, value, text)
    start, end = rng.choice(strings)
    at = rng.randrange(start + 1, end - 1)
    letter = value[at : at + 1]
    if letter == b"\\" or value[at - 1] == 92 or letter >= b"\x80":
        return _put_space(rng, value, text)
    new = rng.choice(
        [b"", letter * 2, b"\\u%04x" % letter[0], b"\\u%04X" % letter[0], b"\\n", b"\\u00e9", b"_", letter.swapcase()]
    )
    return value[:at] + new + value[at + 1 :]


def _is_name(value: bytes, end: int) -> bool:
    return value[end : end + 40].lstrip()[:1] == b":"


_TEXT_CHANGES: tuple[Callable[[random.Random, bytes, _Text], bytes], ...] = (
    _put_space, _put_space, _swap_members, _swap_members, _drop_member, _double_member, _add_member, _replace_token,
    _replace_token, _wrap_value, _change_string, _change_string, _change_string,
)  # fmt: skip
