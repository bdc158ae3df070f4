"""Tenants, pools and models of the chaos stack."""

from __future__ import annotations

import json

from fairlane.devstack.first_config import SIMULATOR_URL, FirstConfig

WEIGHTS = {"acme": 1.0, "beacon": 1.0, "cobalt": 2.0, "delta": 2.0, "ember": 4.0}
MAX_UNDISPATCHED = 5_000
"""Above what any fault makes wait, below what a lost count would reach in a run."""
CROWDED = "fjord"
"""A sixth tenant, who asks the slow pool for more than its cap lets in: being refused as full is usual for it."""
CAPS = {**dict.fromkeys(WEIGHTS, MAX_UNDISPATCHED), CROWDED: 3}
"""By tenant how many requests may wait."""
MAIN_POOL, MAIN_MODEL, MAIN_SLOTS = "main", "chaos-small", 64
NARROW_POOL, NARROW_MODEL, NARROW_SLOTS = "narrow", "chaos-narrow", 8
"""A pool that is asked for more than it can do, so that its tenants wait and shares can be judged."""
SLOW_POOL, SLOW_MODEL, SLOW_SLOTS = "slow", "chaos-slow", 2
"""A pool whose calls take more than a second, so that in every row there is somebody who waits and can be cancelled."""
POOLS = {MAIN_POOL: MAIN_SLOTS, NARROW_POOL: NARROW_SLOTS, SLOW_POOL: SLOW_SLOTS}
PROVIDER_TIMEOUT_MS = 5_000


def stack_config() -> FirstConfig:
    """What the stack starts with."""
    price = [{"from": "2025-01-01T00:00:00Z", "input": "0.15", "cached_input": "0.075", "output": "0.60"}]
    limits = {"context_tokens": 32768, "max_output_tokens": 4096, "prices": price}
    catalog = {
        "providers": [
            {
                "provider": "sim", "kind": "openai-compatible", "base_url": SIMULATOR_URL, "key": "env:SIM_KEY",
                "timeout_ms": PROVIDER_TIMEOUT_MS,
            }
        ],
        "pools": [{"pool": pool, "slots": slots} for pool, slots in POOLS.items()],
        "models": [
            {"model": MAIN_MODEL, "provider": "sim", "pool": MAIN_POOL, "provider_model": "sim-small", **limits},
            {"model": NARROW_MODEL, "provider": "sim", "pool": NARROW_POOL, "provider_model": "sim-small", **limits},
            {"model": SLOW_MODEL, "provider": "sim", "pool": SLOW_POOL, "provider_model": "sim-slow", **limits},
        ],
        "routes": {},
    }  # fmt: skip
    tenants = [
        {"tenant_id": name, "weight": WEIGHTS.get(name, 1.0), "max_undispatched": cap} for name, cap in CAPS.items()
    ]
    # JSON is YAML.
    return FirstConfig(json.dumps({"tenants": tenants}), json.dumps(catalog))
