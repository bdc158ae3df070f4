"""Which names of the sender's choice may stand in an error.

The field is what helps whoever has to mend a request, so typos and unknown fields are shown; but people paste
credentials where names stand, too, and what looks like one is not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import BaseModel

from fairlane.schemas.chat import (
    AudioPart,
    ChatBody,
    FilePart,
    ImagePart,
    Message,
    RefusalPart,
    StreamOptions,
    TextPart,
)
from fairlane.schemas.command import Command
from fairlane.schemas.request import Request

HIDDEN = "?"
LENGTH_MAX = 32
DIGITS_MAX = 2
_PARTS_MAX = 6
_CAMEL_FREE = 9
"""Letters up to which the words of a camelCase part may be of any length."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"[a-z]*(?:[A-Z][a-z]+)*[A-Z]{0,3}[0-9]*")
"""camelCase words; an abbreviation and digits may end them, as in ``userID2``. No text matches in two ways."""
_WORD = re.compile(r"[A-Z]?[a-z]+")
_WORD_MAX = 15
_SHORT = 4
_NO_WORD = re.compile(r"[^aeiouy]{5}|q[^u]|[jv][^aeiouy]|[bdfgjkmpqvwxz]{3}")
"""What hardly any word of more than ``_SHORT`` letters has in it, and most random runs do."""
_HEX = re.compile(r"[0-9A-Fa-f]{8,}")
_CREDENTIAL = re.compile(
    r"(?:[spr]k|gh[opsur]|github_pat|xox[a-z]|glpat|glsa|gsk|whsec|hf|npm|akia|asia"
    r"|shpat|dckr_pat|nvapi|lin_api|bearer)_",
    re.IGNORECASE,
)
"""What credentials of well-known services begin with."""

_MODELS: tuple[type[BaseModel], ...] = (
    Request, ChatBody, Message, StreamOptions, Command, TextPart, ImagePart, AudioPart, FilePart, RefusalPart,
)  # fmt: skip
KNOWN = frozenset(field.alias or name for model in _MODELS for name, field in model.model_fields.items())
"""The names of what clients write: requests with their bodies, and commands."""


def shown_name(name: str) -> str:
    """The name if it is, or nearly is, one of the contract, or reads like words of an API; else ``?``.

    Nearly is one letter more, less or other for names of 4 letters and more, two for 8 and more. Words are
    those of snake_case or camelCase, in up to 32 characters with up to 2 digits: no run of capitals but an
    abbreviation at the end, no word over 15 letters or with too few vowels, nothing that begins as credentials do.
    """
    return name if name in KNOWN or (_IDENTIFIER.fullmatch(name) and (_nearly_known(name) or _words(name))) else HIDDEN


def _nearly_known(name: str) -> bool:
    lower = name.lower()
    return any(_within(lower, known, 2 if len(known) >= 8 else 1 if len(known) >= 4 else 0) for known in KNOWN)


def _within(one: str, other: str, edits: int) -> bool:
    """Whether so many letters put in, taken out or changed make one of the other (Levenshtein's distance)."""
    if abs(len(one) - len(other)) > edits:
        return False
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, row[0] = row[0], at
        for to, wanted in enumerate(other, 1):
            before, row[to] = row[to], min(row[to] + 1, row[to - 1] + 1, before + (letter != wanted))
    return row[-1] <= edits


def _words(name: str) -> bool:
    if len(name) > LENGTH_MAX or sum(map(str.isdigit, name)) > DIGITS_MAX or _CREDENTIAL.match(name.lstrip("_")):
        return False
    parts = name.strip("_").split("_")
    return len(parts) <= _PARTS_MAX and all(map(_part, parts))


def _part(part: str) -> bool:
    if not _PART.fullmatch(part) or _HEX.fullmatch(part):
        return False
    words = list(_lower_words(part))
    letters = sum(map(len, words))
    if not words or (letters > _CAMEL_FREE and letters < 3.5 * len(words)):
        return False
    return all(map(_pronounceable, words))


def _lower_words(part: str) -> Iterator[str]:
    return (word.lower() for word in _WORD.findall(part))


def _pronounceable(word: str) -> bool:
    if len(word) <= _SHORT:
        return True
    vowels = sum(letter in "aeiouy" for letter in word)
    return len(word) <= _WORD_MAX and 6 * vowels >= len(word) and not _NO_WORD.search(word)
