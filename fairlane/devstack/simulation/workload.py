"""What the tenants of a seed do: good requests, repeated ones, reused keys, nonsense, cancellations."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import orjson

from fairlane.agents.config_view import ConfigView, ModelEntry, price_row
from fairlane.devstack.simulation.books import Prices
from fairlane.devstack.simulation.provider_twin import prompt_text
from fairlane.schemas.catalog import Model, Pool, Provider
from fairlane.schemas.tenant import Tenant

POOL = "sim"
TENANTS = ("acme", "bolt", "core")
PROVIDER_TIMEOUT_MS = 3_000
PRICES = Prices(input="0.1505", output="0.6005")
"""Halves of nano-dollars come up, so that rounding can be seen."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record that a client writes at a time; ``cancels`` goes to the commands topic instead of requests."""

    at_s: float
    value: bytes
    cancels: bool = False

    def __str__(self) -> str:
        """Time, tenant/request, and what is special about it; of nonsense the beginning."""
        try:
            document = orjson.loads(self.value)
            about = f"{document['tenant_id']}/{document['request_id']}"
            body = {} if self.cancels else document["body"]
        except (ValueError, KeyError, TypeError):
            return f"{self.at_s:7.3f} nonsense {self.value[:60]!r}"
        if self.cancels:
            return f"{self.at_s:7.3f} cancels {about}"
        for name in ("body", "schema", "tenant_id", "request_id"):
            document.pop(name, None)
        prompt = " ".join(message["content"] for message in body.get("messages", ()))
        special = {
            name: body.get(name) for name, usual in (("model", "m"), ("max_tokens", 400)) if body.get(name) != usual
        }
        facts = "".join(f", {name} {value}" for name, value in (special | document).items())
        return f"{self.at_s:7.3f} asks {about}: {prompt!r}{facts}"


@dataclass(frozen=True, slots=True)
class Shape:
    """The installation of a seed."""

    gates: int = 1
    dispatchers: int = 1
    workers: int = 1
    settles: int = 1
    sinks: int = 1
    slots: int = 4
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    cap: int = 100
    static_names: bool = True
    delay_s: float = 0.01
    window: int = 50
    batch: int = 20
    sink_rows: int = 5


@cache
def config(slots: int, weights: tuple[float, ...], cap: int, version: str = "t1-c1") -> ConfigView:
    """One pool, one model, the tenants with these weights."""
    document = {
        "model": "m",
        "provider": "sim",
        "pool": POOL,
        "context_tokens": 8000,
        "max_output_tokens": 400,
        "prices": [{"from": "2020-01-01T00:00:00Z", "input": PRICES.input, "output": PRICES.output}],
    }
    model = Model.model_validate_json(orjson.dumps(document))
    return ConfigView(
        version=version,
        tenants={
            name: Tenant(tenant_id=name, weight=weight, max_undispatched=cap)
            for name, weight in zip(TENANTS, weights, strict=True)
        },
        providers={"sim": Provider(provider="sim", base_url="http://127.0.0.1:1/v1", timeout_ms=PROVIDER_TIMEOUT_MS)},
        pools={POOL: Pool(pool=POOL, slots=slots)},
        models={"m": ModelEntry(model, tuple(price_row("m", price) for price in model.prices))},
        routes={},
    )


def request(tenant: str, request_id: str, output: int, **changes: object) -> bytes:
    """A good request for so many tokens of output."""
    body = {
        "model": "m",
        "max_tokens": 400,
        "messages": [{"role": "user", "content": prompt_text(tenant, request_id, output)}],
    }
    document = {"schema": "fairlane.request.v1", "request_id": request_id, "tenant_id": tenant, "body": body}
    return orjson.dumps(document | changes)


def cancellation(tenant: str, request_id: str) -> bytes:
    """A command to cancel."""
    return orjson.dumps(
        {
            "schema": "fairlane.command.v1",
            "command": "cancel",
            "tenant_id": tenant,
            "request_id": request_id,
        }
    )


def mixed(rng: random.Random, requests: int, span_s: float) -> list[Arrival]:
    """A mix of everything: about two thirds of it are plain good requests."""
    arrivals: list[Arrival] = []
    sent: list[tuple[str, str, int, dict[str, object]]] = []
    sent_s: list[float] = []
    for number in range(requests):
        at_s, tenant = rng.random() * span_s, rng.choice(TENANTS)
        output, request_id = rng.randrange(1, 60), f"r{number}"
        changes: dict[str, object] = {}
        if rng.random() < 0.2:
            changes["priority"] = rng.choice(("critical", "high", "low", "batch"))
        if rng.random() < 0.1:
            changes["stream"] = True
        if rng.random() < 0.12:
            # Some so short that they can be kept only if a slot is free at once.
            changes["timeout_ms"] = rng.randrange(20, 400) if rng.random() < 0.4 else rng.randrange(200, 3000)
        kind = rng.random()
        if kind < 0.08 and sent:
            # The same request again.
            tenant, request_id, output, changes = rng.choice(sent)
        elif kind < 0.11 and sent:
            # Its id again with another body.
            tenant, request_id, output, changes = rng.choice(sent)
            output += 100
        elif kind < 0.19 and sent:
            changes["idempotency_key"] = rng.choice(("k1", "k2", "k3"))
            arrivals.append(Arrival(at_s, _keyed(tenant, request_id, changes, rng.choice((7, 7, 7, 9)))))
            continue
        elif kind < 0.27:
            arrivals.append(Arrival(at_s, _nonsense(rng, tenant, request_id)))
            continue
        elif kind < 0.31 and sent:
            place = rng.randrange(len(sent))
            if rng.random() < 0.7:
                # While it waits, or on its way: most others are answered by then.
                at_s = sent_s[place] + rng.uniform(-0.05, 0.3)
            arrivals.append(Arrival(max(0.0, at_s), cancellation(*sent[place][:2]), cancels=True))
            continue
        sent.append((tenant, request_id, output, changes))
        sent_s.append(at_s)
        arrivals.append(Arrival(at_s, request(tenant, request_id, output, **changes)))
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def backlog(rng: random.Random, requests: int, span_s: float) -> list[Arrival]:
    """Tenants that keep waiting: one floods from the start, another comes when much has been served, all in
    one priority. In half of the worlds answers are of one length, in the others those of a tenant are long or short.
    """
    alike = rng.random() < 0.5
    lengths = {tenant: 100 if alike else rng.choice((5, 60, 300)) for tenant in TENANTS}
    shares = dict(zip(rng.sample(TENANTS, 3), (0.5, 0.35, 0.15), strict=True))
    late, late_s = list(shares)[1], rng.uniform(0.6, 1.2) * span_s
    arrivals: list[Arrival] = []
    for tenant, share in shares.items():
        for number in range(int(share * requests)):
            at_s = 0.05 * rng.random() + (late_s if tenant == late else 0.0)
            output = max(1, int(lengths[tenant] * (0.7 + 0.6 * rng.random())))
            arrivals.append(Arrival(at_s, request(tenant, f"r{number}", output)))
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def _keyed(tenant: str, request_id: str, changes: dict[str, object], output: int) -> bytes:
    """Requests under one key say the same, or something else; never their own names."""
    changed = {name: value for name, value in changes.items() if name != "stream"}
    body = {
        "model": "m",
        "max_tokens": 400,
        "messages": [{"role": "user", "content": prompt_text(tenant, str(changes["idempotency_key"]), output)}],
    }
    return request(tenant, request_id, output, **(changed | {"body": body}))


def _nonsense(rng: random.Random, tenant: str, request_id: str) -> bytes:
    good = request(tenant, request_id, 5)
    return rng.choice(
        (
            b"",
            b"\xff\xfe",
            b"[]",
            good[: len(good) // 2],
            good.replace(b'"m"', b'"no-such-model"'),
            good.replace(b'"max_tokens":400', b'"max_tokens":-1'),
            request("nobody", request_id, 5),
            request(tenant, request_id, 5, surprise=True),
            request(tenant, request_id, 5, deadline="2020-01-01T00:00:00Z"),
            b"[" * 2000,
        )
    )
