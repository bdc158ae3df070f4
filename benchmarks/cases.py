"""What is offered to the chain: each case with its rate, tenants, bodies and model, and the stack's configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fairlane.devstack.first_config import SIMULATOR_URL, FirstConfig

TENANTS = 1000
FLOODER = "flooder"
FLOODED_MODEL = "flooded-small"
FLOODED_SLOTS = 32
"""At 90 ms a call they serve about 350 requests per second: more than the light tenants ask, less than the flooder."""
SLOTS = 512
HEAVY, LIGHT = "weight-4", "weight-1"
HEAVY_WEIGHT = 4


@dataclass(frozen=True, slots=True)
class Case:
    """A load in an open loop: request ``n`` is due at ``n / rate`` seconds, whatever became of the others.

    ``tenants`` take turns, or those of ``names`` do. ``flood_rate`` is what one more tenant asks at the same time.
    """

    name: str
    rate: float
    seconds: float
    model: str = "sim-instant"
    tenants: int = 5
    body_bytes: int = 1024
    flood_rate: float = 0.0
    names: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """How many are sent, without the flooder's."""
        return int(self.rate * self.seconds)

    @property
    def flood_requests(self) -> int:
        """How many the flooder sends."""
        return int(self.flood_rate * self.seconds)


def tenant_name(number: int) -> str:
    """The name of a tenant of the benchmark."""
    return f"tenant-{number:04d}"


def bench_config() -> FirstConfig:
    """Tenants whose cap never is the limit, a flooder with the default cap, and two pools of the simulator."""
    price = [{"from": "2025-01-01T00:00:00Z", "input": "0.15", "cached_input": "0.075", "output": "0.60"}]
    limits = {"context_tokens": 32768, "max_output_tokens": 4096, "prices": price}
    catalog = {
        "providers": [
            {
                "provider": "sim", "kind": "openai-compatible", "base_url": SIMULATOR_URL, "key": "env:SIM_KEY",
                "timeout_ms": 60000,
            }
        ],
        "pools": [{"pool": "bench", "slots": SLOTS}, {"pool": "flooded", "slots": FLOODED_SLOTS}],
        "models": [
            {"model": "sim-instant", "provider": "sim", "pool": "bench", **limits},
            {"model": "sim-small", "provider": "sim", "pool": "bench", **limits},
            {
                "model": FLOODED_MODEL, "provider": "sim", "pool": "flooded", "provider_model": "sim-small",
                **limits,
            },
        ],
        "routes": {},
    }  # fmt: skip
    names = [*(tenant_name(number) for number in range(TENANTS)), LIGHT]
    tenants: list[dict[str, Any]] = [{"tenant_id": name, "max_undispatched": 100_000} for name in names]
    tenants += [{"tenant_id": HEAVY, "max_undispatched": 100_000, "weight": HEAVY_WEIGHT}, {"tenant_id": FLOODER}]
    # JSON is YAML.
    return FirstConfig(json.dumps({"tenants": tenants}), json.dumps(catalog))


class RequestTemplate:
    """Requests of one case as bytes, encoded once but for their ids."""

    def __init__(self, case: Case, run: str) -> None:
        marker = "0123456789abcdef"
        document = {
            "schema": "fairlane.request.v1",
            "request_id": f"{marker}r",
            "tenant_id": f"{marker}t",
            "body": {
                "model": case.model,
                "max_tokens": 16,
                "messages": [{"role": "user", "content": "fair lanes "}],
            },
        }
        missing = max(0, case.body_bytes - len(json.dumps(document)))
        document["body"]["messages"][0]["content"] += ("word " * (missing // 5 + 1))[:missing]  # type: ignore[index]
        head, _, rest = json.dumps(document).encode().partition(f"{marker}r".encode())
        middle, _, tail = rest.partition(f"{marker}t".encode())
        self._parts = (head, middle, tail)
        self._run = run

    def request(self, tenant: str, number: int) -> bytes:
        """The request ``<run>-<number>`` of a tenant."""
        head, middle, tail = self._parts
        return b"%b%b-%d%b%b%b" % (head, self._run.encode(), number, middle, tenant.encode(), tail)
