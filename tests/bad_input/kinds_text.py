"""Kinds 59 to 71: text that attacks whoever shows it, time, and order."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.bad_input.case import CORPUS, Fuzz, Input, document, new_id, secret, secret_name, sized, value

_kind = CORPUS.kind


def _anywhere(rng: random.Random, attack: str) -> bytes:
    """The text in a field that is an id, a label, a choice, a model or a prompt; ids stay unique."""
    unique = attack + new_id(rng)
    way = rng.randrange(8)
    if way < 3:
        return value(rng, **{("request_id", "tenant_id", "idempotency_key")[way]: unique})
    if way == 3:
        return value(rng, labels={"note": attack})
    if way == 4:
        return value(rng, labels={attack: "x"})
    if way == 5:
        return value(rng, body={"model": attack})
    if way == 6:
        return value(rng, body={attack: secret(rng)})
    return value(rng, body={"messages": [{"role": "user", "content": attack + secret(rng)}]})


@_kind(59, "line ends and terminal codes")
def _(rng: random.Random) -> bytes:
    return _anywhere(rng, rng.choice(["a\r\nlevel=error", "a\nb", "\x1b[2J\x1b[31m", "\x1b]0;x\x07", "\x85", "\u2028"]))


@_kind(60, "direction marks and look-alikes")
def _(rng: random.Random) -> bytes:
    other = rng.choice(["\u202eacme", "ac\u200bme", "\u0430cme", "acme\ufeff", "ａｃｍｅ", "a\u0301cme"])
    return value(rng, tenant_id=other) if rng.random() < 0.6 else _anywhere(rng, other)


@_kind(61, "quotes of SQL")
def _(rng: random.Random) -> bytes:
    return _anywhere(
        rng, rng.choice(["a';DROP", "a'--", "';SELECT/**/1;--", "\\'||1", "a`b", '"x', "{p:String}", "a')OR('1'='1"])
    )


@_kind(62, "format strings")
def _(rng: random.Random) -> bytes:
    return _anywhere(rng, rng.choice(["%s%n", "{}", "{0.__class__}", "${jndi:ldap://x}", "%(a)s", "{{7*7}}", "%d"]))


@_kind(63, "addresses inside the network")
def _(rng: random.Random) -> bytes:
    url = rng.choice(["http://[::1]:6379/", "http://127.0.0.1:6379/", "ftp://x/y", "gopher://x"])
    name = rng.choice(["callback_url", "webhook", "response_url", "base_url"])
    way = rng.randrange(3)
    if way == 0:
        return value(rng, **{name: f"{url}?{secret(rng)}"})
    if way == 1:
        return value(rng, body={name: f"{url}?{secret(rng)}"})
    part = {"type": "image_url", "image_url": {"url": url}}
    return value(rng, body={"messages": [{"role": "user", "content": [part]}]})


@_kind(64, "path traversal")
def _(rng: random.Random) -> bytes:
    return _anywhere(rng, rng.choice(["../../etc/passwd", "..\\..\\x", "%2e%2e/", "/dev/null", "a/../../b", "....//"]))


@_kind(65, "emoji and combining marks")
def _(rng: random.Random) -> bytes:
    unit = rng.choice(["\U0001f600", "a" + "\u0301" * 30, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e6"])
    return _anywhere(rng, unit * sized(rng, 3000, 1))


@_kind(66, "secrets inside an invalid document")
def _(rng: random.Random) -> bytes:
    made: dict[str, Any] = document(rng)
    hidden: Any = rng.choice(
        [secret(rng), [secret(rng)], {"password": secret(rng)}, {secret(rng): 1}, {secret_name(rng): 1}]
    )
    # Not where a text is welcome: what somebody calls a request is no secret.
    place = rng.choice(["priority", "deadline", "stream", "schema", "timeout_ms"])
    if rng.random() < 0.2:  # as a name
        holder = rng.choice(
            [made, made["body"], made["body"].setdefault(rng.choice(["stream_options", "metadata"]), {})]
        )
        holder[secret_name(rng)] = 1
    elif rng.random() < 0.5:
        made[place] = hidden
    else:
        name = rng.choice(["model", "max_tokens", "messages", "stop", "tools", "temperature", "stream_options", "seed"])
        made["body"][name] = hidden
    return json.dumps(made).encode()


@_kind(67, "a deadline in the past")
def _(rng: random.Random) -> bytes:
    zone = rng.choice(["Z", "+00:00", "-11:30", "+14:00", "z"])
    day = f"{rng.randint(2000, 2025)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return value(rng, deadline=f"{day}T{rng.randint(0, 23):02}:00:00{rng.choice(['', '.5', '.123456789'])}{zone}")


@_kind(68, "the years 1970 and 9999")
def _(rng: random.Random) -> Input:
    if rng.random() < 0.4:
        return Input(value(rng), timestamp_ms=rng.choice([0, 1, 253_402_300_799_999, 2**62]))
    year = rng.choice(["1970", "1969", "1999", "2000", "9998", "9999", "0000", "0001", "10000", "-001"])
    rest = rng.choice(["-01-01T00:00:00Z", "-12-31T23:59:59-14:00", "-12-31T23:59:59+14:00", "-02-30T00:00:00Z"])
    return Input(value(rng, deadline=year + rest))


def _command(tenant: Any, request: Any, **more: Any) -> bytes:
    made = {"schema": "fairlane.command.v1", "command": "cancel", "tenant_id": tenant, "request_id": request, **more}
    return json.dumps(made).encode()


@_kind(69, "cancel before create")
def _(rng: random.Random, fuzz: Fuzz) -> list[Input]:
    """Mutated are the command, the request, or both."""
    made, which = document(rng), rng.randrange(3)
    command, request = _command("acme", made["request_id"]), json.dumps(made).encode()
    cancel = Input(fuzz(command) if which < 2 else command, "commands")
    if which == 0:
        return [cancel]
    return [cancel, Input(fuzz(request) if which == 2 or rng.random() < 0.3 else request)]


@_kind(70, "cancel twice, and commands that are none")
def _(rng: random.Random, fuzz: Fuzz) -> list[Input]:
    made = document(rng)
    cancel = _command("acme", made["request_id"])
    if rng.random() < 0.5:
        return [Input(json.dumps(made).encode()), Input(cancel, "commands"), Input(fuzz(cancel), "commands")]
    broken = rng.choice(
        [b"", None, b"{", b"null", _command("acme", ""), _command(7, "x"), _command("acme", "x", reason=secret(rng)),
         _command("acme", "x", **{secret_name(rng): 1}), secret(rng).encode(), b"[" * 50_000, b"\xff\xfe",
         json.dumps(made).encode()]
    )  # fmt: skip
    if broken:
        return [Input(fuzz(broken), "commands")]
    # What has no bytes is mutated in its key.
    return [Input(broken, "commands", key=fuzz(new_id(rng).encode()) or b"k")]


@_kind(71, "a result nobody asked for")
def _(rng: random.Random) -> Input:
    tenant, request = rng.choice(["acme", "nobody"]), f"foreign-{new_id(rng)}"
    made = {
        "schema": "fairlane.result.v1", "request_id": request, "tenant_id": tenant, "idempotency_key": request,
        "priority": "normal", "status": "succeeded", "response": {"x": secret(rng)}, "error": None,
        "usage": {"input_tokens": 1, "cached_input_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0},
        "cost": {"nano_usd": rng.choice([0, 1, 2**53 - 1]), "price_id": "p"}, "route": None,
        "timings": {"received_at": "2026-11-20T18:00:30.000Z", "completed_at": "2026-11-20T18:00:31.000Z"},
        "attempts": 1, "cached": False, "replayed": False, "labels": {}, "config_version": "c",
    }  # fmt: skip
    whole = json.dumps(made).encode()
    broken = rng.choice(
        [whole, whole, b"", None, whole[:-9], b"[" * 50_000, rng.randbytes(50), whole.replace(b"1", b"9")]
    )
    key = rng.choice([f"{tenant}/{request}".encode(), f"{tenant}/{request}".encode(), b"acme/other", b"\xff", b""])
    headers = (("fairlane-slot", rng.choice([b"sim/0/1/1", b"sim/99/-1/x", b"\xff", secret(rng).encode()])),)
    return Input(broken, "results", key=key, headers=headers if rng.random() < 0.5 else ())
