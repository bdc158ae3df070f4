"""All 71 kinds with their mutations: the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.bad_input import kinds_bytes, kinds_contract, kinds_text
from tests.bad_input.case import CORPUS, Input, Kind
from tests.bad_input.fuzzer import fuzzed, mutated

KINDS: dict[int, Kind] = dict(sorted(CORPUS.kinds.items()))
_MODULES = (kinds_bytes, kinds_contract, kinds_text)
PLAIN = 3
"""Inputs of each kind that are sent as they are made."""
_ID = re.compile(rb'"(request_id|idempotency_key)"\s*:\s*"([!-~]*?)"')
_SHORT = 6


def cases(kind: Kind, count: int, seed: int) -> Iterator[list[Input]]:
    """Three inputs of a kind as they are, then ``count`` mutations of it, no two alike.

    Of each only the last record, or what its maker says, is changed; that record is marked as mutated.
    """
    for number in range(PLAIN):
        yield kind.make(random.Random(f"{seed}/{kind.number}/plain/{number}"), None)
    seen: set[bytes] = set()
    names: set[tuple[bytes, bytes]] = set()
    for number in range(count):
        made = next(
            made
            for attempt in range(1000)
            if _is_new(made := mutation(kind, random.Random(f"{seed}/{kind.number}/{number}/{attempt}")), seen, names)
        )
        yield made


def mutation(kind: Kind, rng: random.Random) -> list[Input]:
    """One input of a kind, mutated."""
    made = kind.make(rng, partial(mutated, rng))
    last = made[-1] if kind.places_mutations else fuzzed(rng, made[-1])
    made[-1] = replace(last, mutated=True)
    return made


def _is_new(made: list[Input], seen: set[bytes], names: set[tuple[bytes, bytes]]) -> bool:
    """Whether no input before was the same, nor shares an id or a key with this one."""
    last = made[-1]
    # The key of a duplicate is random; what is mutated must differ by itself.
    print_ = hashlib.sha256(repr((last.value, last.key, last.headers, last.timestamp_ms, last.batch)).encode()).digest()
    own = {(match[1], match[2]) for match in _ID.finditer(last.value or b"")} if last.topic == "requests" else set()
    if print_ in seen or own & names or any(0 < len(name) < _SHORT for _, name in own):
        return False
    seen.add(print_)
    names.update(own)
    return True
