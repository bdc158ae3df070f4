"""All 71 kinds with their mutations: the same seed gives the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from tests.bad_input import kinds_bytes, kinds_contract, kinds_text
from tests.bad_input.case import CANARY, CORPUS, Input, Kind

KINDS: dict[int, Kind] = dict(sorted(CORPUS.kinds.items()))
_MODULES = (kinds_bytes, kinds_contract, kinds_text)
_TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b"null", b"true", b"-", b"0", b"1e9", b"\xff", b"\0", b"\n", b" ",
    b"\\u0000", b"\\ud800", b'""', b"{}", b"[]", b'"a":', b'"body":', b'"tenant_id":', b"\xef\xbb\xbf", b"NaN",
)  # fmt: skip


def cases(kind: Kind, count: int, seed: int) -> Iterator[list[Input]]:
    """``count`` inputs of a kind; of each only the last record is ever changed at random."""
    for number in range(count):
        rng = random.Random(f"{seed}/{kind.number}/{number}")
        made = kind.make(rng)
        last = made[-1]
        if last.value and last.batch is None and rng.random() < kind.mutated:
            made[-1] = replace(last, value=mutated(rng, last.value))
        yield made


def mutated(rng: random.Random, value: bytes) -> bytes:
    """One to four random changes: bytes flipped, dropped, doubled, moved, or tokens put in."""
    changed = bytearray(value)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            return b""
        at, end = rng.randrange(len(changed)), 0
        match rng.randrange(6):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.randint(1, 8)]
            case 2:
                changed[at:at] = rng.choice(_TOKENS)
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


def _secret(value: bytearray, start: int, end: int) -> bool:
    """Whether a piece has to do with a secret: moved into an id it would be none any more."""
    return CANARY in value[max(0, start - len(CANARY)) : end + len(CANARY)]
