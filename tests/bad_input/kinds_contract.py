"""Kinds 30 to 58: the contract, sizes, identity and idempotency."""

from __future__ import annotations

import base64
import random
from typing import Any

from tests.bad_input.case import CORPUS, Fuzz, Input, document, new_id, secret, secret_name, sized, value
from tests.bad_input.raw_batch import CODECS, batch, bomb, compress, record

_kind = CORPUS.kind
MESSAGE_MAX = 4 * 1_048_576
"""``max.message.bytes`` of the topics."""
WRONG: tuple[Any, ...] = (None, True, 1, 1.5, "text", [], {}, [1], {"a": 1}, [None], -1, "")
PARAMETERS = (
    "model", "messages", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "tools", "tool_choice", "metadata",
    "response_format", "logit_bias", "stream_options", "reasoning_effort", "modalities", "presence_penalty", "user",
)  # fmt: skip
ENVELOPE = ("schema", "request_id", "tenant_id", "idempotency_key", "priority", "deadline", "timeout_ms", "labels",
            "stream", "body")  # fmt: skip


@_kind(30, "missing field")
def _(rng: random.Random) -> bytes:
    made = document(rng)
    name = rng.choice(["schema", "request_id", "tenant_id", "body", "model", "messages", "role"])
    for place in (made, made["body"], made["body"]["messages"][0]):
        place.pop(name, None)
    return _json(made)


def _json(made: Any) -> bytes:
    import json

    return json.dumps(made).encode()


@_kind(31, "wrong type")
def _(rng: random.Random) -> bytes:
    made = document(rng)
    if rng.random() < 0.5:
        name, wrong = rng.choice(ENVELOPE), rng.choice(WRONG)
        # A text is no wrong type for an id, and two requests must not share one.
        made[name] = new_id(rng) if wrong == "text" and name in ("request_id", "idempotency_key") else wrong
    else:
        made["body"][rng.choice(PARAMETERS)] = rng.choice(WRONG)
    return _json(made)


@_kind(32, "a boolean for a number")
def _(rng: random.Random) -> bytes:
    name, state = rng.choice(["max_tokens", "n", "seed", "temperature", "top_p", "timeout_ms"]), rng.random() < 0.5
    return value(rng, timeout_ms=state) if name == "timeout_ms" else value(rng, body={name: state})


@_kind(33, "unknown field")
def _(rng: random.Random) -> bytes:
    names = ["requestId", "webhook", "max_cost", "x", "a b", "é", "tenant_id ", "Body", "ignore\nme", "", "temprature"]
    name = rng.choice([*names, secret_name(rng), secret_name(rng)])
    if rng.random() < 0.5:
        return value(rng, **{name: secret(rng)})
    return value(rng, body={name: secret(rng)})


@_kind(34, "unknown choice or model")
def _(rng: random.Random) -> bytes:
    other = rng.choice(["urgent", "NORMAL", "", "normal ", "5", new_id(rng)])
    way = rng.randrange(5)
    if way == 0:
        return value(rng, priority=other)
    if way == 1:
        return value(rng, body={"model": rng.choice(["gpt-9", "SIM-INSTANT", "sim-instant ", "*", secret(rng)])})
    if way == 2:
        return value(rng, body={"messages": [{"role": other, "content": secret(rng)}]})
    if way == 3:
        return value(rng, tenant_id="picky", body={"model": rng.choice(["sim-small", "auto", "sim-instant"])})
    return value(rng, body={rng.choice(["reasoning_effort", "verbosity", "service_tier"]): other})


@_kind(35, "no tokens or fewer")
def _(rng: random.Random) -> bytes:
    name = rng.choice(["max_tokens", "max_completion_tokens", "n"])
    return value(rng, body={name: rng.choice([0, -1, -(2**31), -(2**63), 0.0, -0.5, 4097, 10**9])})


@_kind(36, "a parameter out of range")
def _(rng: random.Random) -> bytes:
    name = rng.choice(["temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"])
    return value(rng, body={name: rng.choice([-0.1, 2.1, 1e308, -3, 99, 5e-324, 2, -2, 21])})


@_kind(37, "no messages")
def _(rng: random.Random) -> bytes:
    return value(rng, body={"messages": rng.choice([[], None, [[]], [None], {}, "", [{}]])})


@_kind(38, "messages in a wrong order")
def _(rng: random.Random) -> bytes:
    pool = [
        {"role": "tool", "content": secret(rng), "tool_call_id": "c"},
        {"role": "user", "content": secret(rng)},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]},
        {"role": "system", "content": "x"},
    ]
    return value(rng, body={"messages": rng.choices(pool, k=rng.randint(1, 6))})


@_kind(39, "unsupported version")
def _(rng: random.Random) -> bytes:
    version = rng.choice(["v2", "v0", "v1.1", "v", "v1 ", "V1", "v999999999", "v9999999999", "v-1", "v01", "v١"])
    return value(rng, schema=f"fairlane.request.{version}")


@_kind(40, "a prompt over the limit")
def _(rng: random.Random) -> bytes:
    words = "word " * rng.randint(30_000, 120_000)
    model = rng.choice(["sim-instant", "sim-small", "sim-large", "auto"])
    return value(rng, body={"model": model, "messages": [{"role": "user", "content": words + secret(rng)}]})


@_kind(41, "over max.message.bytes")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    if rng.random() < 0.03:
        made = fuzz(value(rng, body={"user": "x" * (MESSAGE_MAX + rng.randint(10_000, 99_999))}))
        return Input(batch=batch(record(0, made), 1), refused_by_broker=True)
    size = 1_048_576 + rng.choice([-400, -100, 1, 100, rng.randint(1, 1_000_000)])
    made = fuzz(value(rng, body={"user": "x" * size}))
    if rng.random() < 0.9:  # the same, but light on the wire
        return Input(made, batch=batch(compress("zstd", record(0, made)), 1, codec=CODECS["zstd"]))
    return Input(made)


@_kind(42, "compressed bomb")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    """Mutated are codec, size, how many records it is, what they hold, and bytes of the text they begin with."""
    codec = rng.choices(list(CODECS), weights=[2, 0.1, 2, 16])[0]
    size = rng.randint(34_000_000, 60_000_000)
    if codec == "zstd" and rng.random() < 0.02:
        size = 500_000_000
    start = fuzz(value(rng))
    filler = bytes([rng.choice([0, 0, 32, 120, rng.randrange(256)])])
    if rng.random() < 0.3 and codec != "snappy":
        count = rng.randint(2, 20)
        each = start + filler * (34_000_000 // count + 1)
        payload = b"".join(record(number, each) for number in range(count))
        return Input(batch=batch(compress(codec, payload), count, codec=CODECS[codec]), count=count, bomb=True)
    return Input(batch=bomb(codec, size, start, filler), bomb=True)


@_kind(43, "10,000 headers")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    count = sized(rng, 10_000, 100)
    headers = [(f"h{number % 7}", secret(rng).encode() if number < 9 else b"x") for number in range(count)]
    for _ in range(rng.randint(1, 9)):
        at = rng.randrange(count)
        headers[at] = (fuzz(headers[at][0].encode()).decode(errors="replace"), fuzz(headers[at][1]))
    made = value(rng)
    return Input(fuzz(made) if rng.random() < 0.3 else made, headers=tuple(headers))


@_kind(44, "a header of 1 MB")
def _(rng: random.Random, fuzz: Fuzz) -> Input:
    name = rng.choice(["traceparent", "ce_id", "fairlane-source", "fairlane-redrive", "fairlane-ticket", "x"])
    content = fuzz(secret(rng).encode() + bytes(sized(rng, 1_048_576, 100)))
    if rng.random() < 0.3:
        name = fuzz(name.encode()).decode(errors="replace")
    made = value(rng)
    if rng.random() < 0.3:
        made = fuzz(made)
    return Input(made, headers=((name, content),) if rng.random() < 0.8 else ((name * 9999, content),))


@_kind(45, "an image that is a bomb")
def _(rng: random.Random) -> bytes:
    data = base64.b64encode(bytes(sized(rng, 800_000, 100))).decode()
    url = rng.choice(["data:image/png;base64,", "data:image/svg+xml;base64,", "data:,"]) + data
    part = {"type": "image_url", "image_url": {"url": url, "detail": rng.choice(["high", secret(rng)])}}
    other = rng.choice([{"type": "input_audio", "input_audio": {"data": data}}, {"type": "file", "file": {"x": data}}])
    return value(rng, body={"messages": [{"role": "user", "content": [rng.choice([part, other])]}]})


@_kind(46, "a text that stalls careless patterns")
def _(rng: random.Random) -> bytes:
    unit = rng.choice(["a", "aa ", "1.", "(((", "2026-11-20T", "x:", "\\", "0", "fairlane.request.v", " "])
    attack = unit * sized(rng, 50_000, 10) + rng.choice(["!", "\n", "", "Z"])
    name = rng.choice(["request_id", "tenant_id", "idempotency_key", "deadline", "schema", "priority", "model"])
    if name == "model":
        return value(rng, body={"model": attack})
    # Two requests must not share an id.
    return value(rng, **{name: attack + new_id(rng) if name in ("request_id", "idempotency_key") else attack})


@_kind(47, "one token a million times")
def _(rng: random.Random) -> bytes:
    token = rng.choice(["a ", "hello ", "\n", "0", "the "])
    content = token * min(sized(rng, 1_000_000, 1000), 1_040_000 // len(token))
    return value(rng, body={"messages": [{"role": "user", "content": content}]})


@_kind(48, "no key")
def _(rng: random.Random) -> Input:
    return Input(value(rng, idempotency_key=rng.choice([None, None, ""])), key=rng.choice([None, b""]))


@_kind(49, "a key too long or with line ends")
def _(rng: random.Random) -> bytes:
    key = rng.choice(["k" * 256, "k" * sized(rng, 100_000, 200), "a\r\nb", "a\nSet-Cookie: b", "a b", "k" * 255, "ké"])
    return value(rng, idempotency_key=(key[:-16] if len(key) > 200 else key) + new_id(rng))


@_kind(50, "the same key with another payload")
def _(rng: random.Random) -> list[Input]:
    first = document(rng, idempotency_key=new_id(rng))
    second = {**document(rng), "idempotency_key": first["idempotency_key"]}
    if rng.random() < 0.3:
        second["request_id"] = first["request_id"]
    return [Input(_json(first)), Input(_json(second))]


@_kind(51, "the same key in flight")
def _(rng: random.Random) -> list[Input]:
    first = document(rng, idempotency_key=new_id(rng))
    if rng.random() < 0.25:  # the record itself again, as a producer that retries sends it
        return [Input(_json(first)), Input(_json(first))]
    return [
        Input(_json(first)),
        *(Input(_json({**first, "request_id": new_id(rng)})) for _ in range(rng.randint(1, 3))),
    ]


@_kind(52, "unknown tenant")
def _(rng: random.Random) -> bytes:
    return value(rng, tenant_id=rng.choice(["nobody", "ACME", "acme.", "acme/", "%61cme", "acme/x", "*", "default"]))


@_kind(53, "another tenant's name around it")
def _(rng: random.Random) -> Input:
    made = document(rng, tenant_id=rng.choice(["acme", "picky", "asleep", "nobody"]))
    headers = (("tenant", b"picky"), ("ce_source", b"picky"), ("principal", secret(rng).encode()))
    return Input(_json(made), key=f"picky/{made['request_id']}".encode(), headers=headers)


@_kind(54, "bad, expired or replayed signature")
def _(rng: random.Random) -> Input:
    signature = rng.choice([secret(rng), {"alg": "HS256", "value": secret(rng), "exp": 0}, None, "", 0])
    name = rng.choice(["signature", "sig", "jws", "hmac", "iat", "exp", "nonce"])
    if rng.random() < 0.3:
        return Input(value(rng), headers=((name, secret(rng).encode()),))
    return Input(_json({**document(rng), name: signature}))


@_kind(55, "unknown key id")
def _(rng: random.Random) -> bytes:
    return _json({**document(rng), rng.choice(["kid", "key_id", "keyId", "x5t"]): rng.choice([secret(rng), None, 7])})


@_kind(56, "a confusing algorithm")
def _(rng: random.Random) -> bytes:
    head = _b64(_json({"alg": rng.choice(["none", "None", "HS256", "RS256"]), "kid": "../../dev/null"}))
    payload = _b64(value(rng))
    way = rng.randrange(3)
    if way == 0:
        return f"{head}.{payload}.".encode()
    if way == 1:
        return _json({"protected": head, "payload": payload, "signature": secret(rng)})
    return _json({**document(rng), "alg": "none"})


def _b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@_kind(57, "suspended tenant")
def _(rng: random.Random) -> bytes:
    return value(rng, tenant_id="asleep", body={"model": rng.choice(["sim-instant", "none", "auto"])})


@_kind(58, "no budget")
def _(rng: random.Random) -> bytes:
    name = rng.choice(["budget", "max_cost", "budget_nano_usd", "project"])
    return _json({**document(rng), name: rng.choice([0, -1, None, "0", {"limit": 0}, secret(rng)])})
