"""One input of the corpus: the records a client sends, in this order, to one partition."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CANARY = b"5ec2e7c0ffee"
CANARIES = (CANARY, b"SECRETLEAK")
"""One stands in every secret of the corpus; none may stand in anything the product writes about a bad input."""


@dataclass(frozen=True)
class Input:
    """One record. ``batch`` is a whole batch of ``count`` records instead, written as it is."""

    value: bytes | None = None
    topic: str = "requests"
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    batch: bytes | None = None
    count: int = 1
    bomb: bool = False
    """The batch holds more than a reader unpacks."""
    refused_by_broker: bool = False
    """No client can bring it into the log."""
    mutated: bool = False
    """The fuzzer changed it."""


Fuzz = Callable[[bytes], bytes]
Maker = Callable[[random.Random, Fuzz | None], list[Input]]


@dataclass(frozen=True)
class Kind:
    """One of the 71 kinds: how it is called and how one is made.

    Some makers place the mutations themselves: where a change of the record's bytes would make another kind of it
    (a batch that is compressed, a bomb) they take the fuzzer, None for a plain one. The rest is mutated as a whole.
    """

    number: int
    name: str
    make: Maker
    places_mutations: bool


@dataclass
class Corpus:
    """The kinds by number; a function becomes one by the decorator :meth:`kind`."""

    kinds: dict[int, Kind] = field(default_factory=dict)

    def kind(self, number: int, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a maker; it may give a value, an input, or a list of inputs, and may take the fuzzer."""

        def register(make: Callable[..., Any]) -> Callable[..., Any]:
            assert number not in self.kinds
            places = len(inspect.signature(make).parameters) > 1

            def made(rng: random.Random, fuzz: Fuzz | None) -> list[Input]:
                return _inputs(make(rng, fuzz or unchanged) if places else make(rng))

            self.kinds[number] = Kind(number, name, made, places)
            return make

        return register


def unchanged(value: bytes) -> bytes:
    """The fuzzer of a plain input."""
    return value


CORPUS = Corpus()


def _inputs(made: Any) -> list[Input]:
    items = made if isinstance(made, list) else [made]
    return [item if isinstance(item, Input) else Input(item) for item in items]


def secret(rng: random.Random) -> str:
    """A credential as people paste them into prompts."""
    return f"sk-{CANARY.decode()}-{rng.getrandbits(64):016x}"


def secret_name(rng: random.Random) -> str:
    """A credential that could be a name, as it stands where one pasted a value too early."""
    canary, tail = CANARY.decode(), f"{rng.getrandbits(48):012x}"
    return rng.choice(
        [f"sk_live_{canary}{tail}", f"ghp_{canary}{tail}", f"github_pat_{canary}_{tail}", f"{canary}{tail}",
         f"sk_SECRETLEAK_{tail}", "sk_live_SECRETLEAK", f"AKIASECRETLEAK{tail[:6].upper()}"]
    )  # fmt: skip


def new_id(rng: random.Random) -> str:
    """Of one length, so that a random change makes no other request's id of it."""
    return f"{rng.getrandbits(64):016x}"


def document(rng: random.Random, **changes: Any) -> dict[str, Any]:
    """A valid request with a secret in its prompt. ``body`` is merged; None removes a member."""
    body = {
        "model": "sim-instant",
        "max_tokens": 4,
        "messages": [{"role": "user", "content": f"my key is {secret(rng)}"}],
        **changes.pop("body", {}),
    }
    made = {"schema": "fairlane.request.v1", "request_id": new_id(rng), "tenant_id": "acme", "body": body, **changes}
    return {name: value for name, value in made.items() if value is not None}


def text(rng: random.Random, **changes: Any) -> str:
    """A valid request as JSON."""
    return json.dumps(document(rng, **changes))


def value(rng: random.Random, **changes: Any) -> bytes:
    """A valid request as bytes."""
    return text(rng, **changes).encode()


def inside_prompt(rng: random.Random, insert: bytes) -> bytes:
    """A request with bytes at a random place in its prompt."""
    whole = value(rng)
    first = whole.index(b"my key")
    at = rng.randint(first, whole.index(b'"', first))
    return whole[:at] + insert + whole[at:]


def sized(rng: random.Random, most: int, least: int = 10, usual: int | None = None) -> int:
    """Sizes of every order of magnitude up to the usual one, now and then the largest."""
    if rng.random() < 0.02:
        return most
    return int(least * ((usual or most) / least) ** rng.random())
