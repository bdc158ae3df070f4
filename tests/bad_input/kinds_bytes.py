"""Kinds 1 to 29: bytes, encodings and JSON."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import zlib
from typing import Any

from tests.bad_input.case import (
    CORPUS,
    Fuzz,
    Input,
    document,
    inside_prompt,
    new_id,
    secret,
    secret_name,
    sized,
    text,
    value,
)
from tests.bad_input.raw_batch import CODECS, batch, compress, record

_kind = CORPUS.kind
SPACE = b" \t\r\n"


@_kind(1, "empty value")
def _(rng: random.Random) -> Input:
    return Input(b"", key=rng.choice([None, b"", secret(rng).encode()]), headers=_headers(rng))


@_kind(2, "null value (tombstone)")
def _(rng: random.Random) -> Input:
    return Input(None, key=rng.choice([b"", new_id(rng).encode(), secret(rng).encode()]), headers=_headers(rng))


def _headers(rng: random.Random) -> tuple[tuple[str, bytes], ...]:
    return tuple((rng.choice(["ce_id", "traceparent", "x"]), secret(rng).encode()) for _ in range(rng.randint(0, 3)))


@_kind(3, "white space")
def _(rng: random.Random) -> bytes:
    return bytes(rng.choices(SPACE, k=sized(rng, 100_000, 1)))


@_kind(4, "byte-order mark")
def _(rng: random.Random) -> bytes:
    return b"\xef\xbb\xbf" * rng.choice([1, 1, 2]) + value(rng)


@_kind(5, "UTF-16")
def _(rng: random.Random) -> bytes:
    return text(rng).encode(rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32"]))


@_kind(6, "invalid UTF-8")
def _(rng: random.Random) -> bytes:
    return inside_prompt(
        rng, rng.choice([b"\xff", b"\xc3", b"\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xed\xa0\x80"])
    )


@_kind(7, "overlong encoding")
def _(rng: random.Random) -> bytes:
    return inside_prompt(rng, rng.choice([b"\xc0\x80", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc1\xbf"]))


@_kind(8, "lone surrogate escape")
def _(rng: random.Random) -> bytes:
    escape = rng.choice([rb"\ud800", rb"\udfff", rb"\udc00\ud800", rb"\uDBFFx"])
    if rng.random() < 0.3:
        return value(rng, labels={"a": "MARK"}).replace(b"MARK", escape)
    return inside_prompt(rng, escape)


@_kind(9, "NUL escape")
def _(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return inside_prompt(rng, rb"\u0000")
    return value(rng, **{rng.choice(["request_id", "idempotency_key"]): f"a\0{new_id(rng)}"})


@_kind(10, "raw control character")
def _(rng: random.Random) -> bytes:
    return inside_prompt(rng, bytes([rng.randrange(32)]))


@_kind(11, "truncated JSON")
def _(rng: random.Random) -> bytes:
    whole = value(rng)
    return whole[: rng.randrange(1, len(whole))]


@_kind(12, "trailing bytes")
def _(rng: random.Random) -> bytes:
    return value(rng) + rng.choice([b"x", b"\0", b"}", b",", b"\n#", b"null", rng.randbytes(8)])


@_kind(13, "two documents")
def _(rng: random.Random) -> bytes:
    return value(rng) + rng.choice([b"", b"\n", b",", b"\x1e"]) + value(rng)


@_kind(14, "another serializer")
def _(rng: random.Random) -> bytes:
    body = value(rng)
    return rng.choice(
        [
            b"\0" + rng.randbytes(4) + body,  # schema registry
            b"Obj\x01" + body,  # Avro container
            b"\x0a" + bytes([len(body) % 128]) + body,  # Protobuf
            pickle.dumps(document(rng), protocol=rng.choice([2, 4, 5])),
            b"\x82\xa6schema" + body,  # MessagePack
            b"PAR1" + body,
        ]
    )


@_kind(15, "bad checksum, compressed garbage")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    body = fuzz(value(rng))
    way = rng.randrange(10)
    if way == 0:
        return Input(batch=batch(record(0, body), 1, crc=rng.getrandbits(32)), refused_by_broker=True)
    if way == 1:
        return Input(batch=batch(record(0, body), rng.randint(2, 99)), refused_by_broker=True)
    if way == 2:
        return Input(batch=batch(rng.randbytes(60), 1, codec=rng.choice(list(CODECS.values()))), refused_by_broker=True)
    codec = rng.choice(list(CODECS))
    packed = bytearray(compress(codec, body))
    for _ in range(rng.randint(1, 9)):
        packed[rng.randrange(len(packed))] = rng.randrange(256)
    return Input(bytes(packed))


@_kind(16, "gzip declared as JSON")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    inside = rng.random() < 0.5
    plain = fuzz(value(rng)) if inside else value(rng)
    packed = gzip.compress(plain, mtime=0) if rng.random() < 0.7 else zlib.compress(plain)
    headers = (("content-type", b"application/json"), ("content-encoding", b"gzip"))
    return Input(packed if inside else fuzz(packed), headers=headers)


@_kind(17, "duplicate keys")
def _(rng: random.Random) -> bytes:
    whole = text(rng)
    name = rng.choice(["tenant_id", "request_id", "body", "schema", "model", "messages", "role", "content"])
    again = json.dumps({name: rng.choice(["acme", "picky", new_id(rng)])})[1:-1]
    at = whole.index(f'"{name}"')
    return f"{whole[:at]}{again}, {whole[at:]}".encode()


def _raw_number(rng: random.Random, number: str) -> bytes:
    """The number where a number is asked for, or where anything goes."""
    where = rng.choice(["max_tokens", "temperature", "seed", "timeout_ms", "metadata", "tool"])
    if where == "timeout_ms":
        made = text(rng, timeout_ms=7777)
    elif where == "metadata":
        made = text(rng, body={"metadata": {"a": 7777}})
    elif where == "tool":
        made = text(rng, body={"tools": [{"type": "function", "function": {"name": "f", "x": 7777}}]})
    else:
        made = text(rng, body={where: 7777})
    return made.replace("7777", number).encode()


@_kind(18, "NaN and Infinity")
def _(rng: random.Random) -> bytes:
    return _raw_number(rng, rng.choice(["NaN", "Infinity", "-Infinity", "nan", "inf", "+1"]))


@_kind(19, "1e999")
def _(rng: random.Random) -> bytes:
    return _raw_number(rng, f"{rng.choice(['', '-'])}{rng.randint(1, 9)}e{rng.choice([309, 999, 99999, 9999999])}")


@_kind(20, "integer of 5,000 digits")
def _(rng: random.Random) -> bytes:
    return _raw_number(rng, rng.choice(["", "-"]) + "9" * rng.choice([5000, rng.randint(20, 9000)]))


@_kind(21, "integer of 2^64")
def _(rng: random.Random) -> bytes:
    return _raw_number(rng, str(rng.choice([1, -1]) * (2 ** rng.choice([53, 63, 64, 65]) + rng.randint(-1, 1))))


def _nested(rng: random.Random, depth: int, *, objects: bool) -> bytes:
    opening, closing = ('{"a":', "}") if objects else ("[", "]")
    deep = opening * depth + "1" + closing * depth
    if rng.random() < 0.1:
        return deep.encode()
    made = text(rng, body={"metadata": 7777}) if rng.random() < 0.5 else text(rng, body={"tools": [{"x": 7777}]})
    return made.replace("7777", deep).encode()


@_kind(22, "nesting of 1,100")
def _(rng: random.Random) -> bytes:
    depth = rng.choice([1100, rng.randint(150, 250), rng.randint(201, 3000)])
    return _nested(rng, depth, objects=rng.random() < 0.5)


@_kind(23, "arrays nested 100,000 deep")
def _(rng: random.Random) -> bytes:
    return _nested(rng, sized(rng, 100_000, 1000, 10_000), objects=False)


@_kind(24, "objects nested 100,000 deep")
def _(rng: random.Random) -> bytes:
    return _nested(rng, sized(rng, 100_000, 1000, 10_000), objects=True)


@_kind(25, "a million keys")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    count = sized(rng, 50_000, 100, 10_000) if rng.random() > 0.004 else 1_000_000
    keys = {f"k{number}": 1 for number in range(count)}
    where = rng.choice(["envelope", "labels", "metadata", "body", "logit_bias"])
    if where == "envelope":
        made = value(rng, **keys)
    elif where == "labels":
        made = value(rng, labels=keys)
    else:
        made = value(rng, body=keys if where == "body" else {where: keys})
    made = fuzz(made)
    if len(made) < 3_000_000:
        return Input(made)
    return Input(made, batch=batch(compress("zstd", record(0, made)), 1, codec=CODECS["zstd"]))


@_kind(26, "a key of 1 MB")
def _(rng: random.Random) -> bytes:
    # So long that no mutation makes a valid name of a label of it.
    name = rng.choice([secret, secret_name])(rng) + "k" * sized(rng, 1_048_576, 256)
    where = rng.choice(["envelope", "labels", "body", "metadata"])
    if where == "envelope":
        return value(rng, **{name: 1})
    if where == "labels":
        return value(rng, labels={name: "x"})
    return value(rng, body={name: 1} if where == "body" else {"metadata": {name: "x"}})


@_kind(27, "no object at the top")
def _(rng: random.Random) -> bytes:
    inner: list[Any] = [None, [document(rng)], secret(rng), 17, 1.5, True, [], [[]], "", [None]]
    return json.dumps(rng.choice(inner)).encode()


@_kind(28, "comments, trailing commas, single quotes")
def _(rng: random.Random) -> bytes:
    whole = text(rng)
    way = rng.randrange(5)
    if way == 0:
        return whole.replace(": ", ": /* c */ ", 1).encode()
    if way == 1:
        return f"// {secret(rng)}\n{whole}".encode()
    if way == 2:
        return f"{whole[:-1]},}}".encode()
    if way == 3:
        return whole.replace('"', "'").encode()
    return whole.replace('"schema"', "schema", 1).encode()


@_kind(29, "names like __proto__")
def _(rng: random.Random) -> bytes:
    name = rng.choice(["__proto__", "constructor", "prototype", "__class__", "__dict__", "toString", "$ref", "@type"])
    inner = rng.choice([{"admin": secret(rng)}, secret(rng), 1])
    way = rng.randrange(4)
    if way == 0:
        return value(rng, **{name: inner})
    if way == 1:
        return value(rng, body={name: inner})
    if way == 2:
        return value(rng, labels={name: "x"})
    return value(rng, body={"messages": [{"role": "user", "content": "x", name: inner}]})
