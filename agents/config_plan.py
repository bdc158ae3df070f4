"""What applying a file would change: pure comparison of the file with what is applied.

Prices are append-only. A new ``from`` is added; another amount for an applied ``from`` becomes its next
``revision``, which holds from the moment it is applied; an applied price that has begun is kept even if the file
drops it, for costs name it. For the same reason a removed model leaves a record of its prices, and one that is
applied again goes on from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from fairlane.agents.config_file import ConfigFile, Problem
from fairlane.policy.pricing import nano_per_million
from fairlane.schemas.base import WireModel, format_timestamp, timestamp_to_ms
from fairlane.schemas.catalog import CatalogEntry, CatalogFile, Model, Price, Provider, RouteEntry
from fairlane.schemas.codec import encode, violation
from fairlane.schemas.tenant import Tenant, TenantsFile


@dataclass(frozen=True, slots=True)
class Change:
    """One record to write. ``differences`` are for people: ``weight: 1 -> 2``."""

    action: Literal["add", "change", "remove"]
    key: str
    value: bytes | None
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """``only_applied``: keys that are applied, not in the file and not pruned."""

    changes: tuple[Change, ...]
    only_applied: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    """All pools there are afterwards: their topics have to exist."""
    providers: tuple[Provider, ...] = ()
    """Those of the file, with their addresses."""


def plan_tenants(
    file: ConfigFile[TenantsFile], applied: Mapping[str, Tenant], *, rewrite: frozenset[str], prune: bool
) -> Plan:
    """Compare by ``tenant_id``. ``rewrite``: keys whose last record cannot be read and is to be written anew."""
    wanted: dict[str, WireModel] = {tenant.tenant_id: tenant for tenant in file.content.tenants}
    return _compare(wanted, applied, rewrite=rewrite, prune=prune, warnings=())


def plan_catalog(
    file: ConfigFile[CatalogFile],
    applied: Mapping[str, CatalogEntry],
    *,
    rewrite: frozenset[str],
    prune: bool,
    now_ms: int,
    retired: Mapping[str, Model] | None = None,
) -> Plan:
    """Compare by ``<kind>/<name>``; ``retired`` are the models that were removed, by key.

    What models and routes name must be in the file or, unless it is pruned, applied already. Raises
    :class:`~fairlane.errors.Reject` with the places where it is not.
    """
    problems = _missing_names(file.content, {} if prune else applied)
    if problems:
        raise file.reject(problems)
    warnings: list[str] = []
    wanted: dict[str, WireModel] = {}
    content = file.content
    entries = [
        CatalogEntry(kind="provider", provider=Provider.model_validate(dict(provider)))
        for provider in content.providers
    ]
    entries += [CatalogEntry(kind="pool", pool=pool) for pool in content.pools]
    for index, model in enumerate(content.models):
        key = f"model/{model.model}"
        before = entry.model if (entry := applied.get(key)) is not None else (retired or {}).get(key)
        history = before.prices if before is not None else []
        try:
            prices = merge_prices(model.model, history, model.prices, now_ms, warnings)
            merged = Model.model_validate({**dict(model), "prices": prices})
        except ValidationError as failure:
            raise file.reject([(("models", index), violation(failure).message)]) from None
        except ValueError as failure:
            raise file.reject([(("models", index, "prices"), str(failure))]) from None
        entries.append(CatalogEntry(kind="model", model=merged))
    for route, models in content.routes.items():
        entries.append(CatalogEntry(kind="route", route=RouteEntry(route=route, models=models)))
    wanted.update({entry.key: entry for entry in entries})
    plan = _compare(wanted, applied, rewrite=rewrite, prune=prune, warnings=tuple(warnings))
    pools = {pool.pool for pool in content.pools}
    pools |= set() if prune else {entry.pool.pool for entry in applied.values() if entry.pool is not None}
    providers = tuple(entry.provider for entry in entries if entry.provider is not None)
    return Plan(plan.changes, plan.only_applied, plan.warnings, tuple(sorted(pools)), providers)


def merge_prices(
    model: str, history: Sequence[Price], wanted: Sequence[Price], now_ms: int, warnings: list[str]
) -> list[Price]:
    """The history with what is new in ``wanted``, in order; appends what people should know to ``warnings``.

    Raises ValueError where ``wanted`` names a revision that is not the next or that is applied with other amounts.
    """
    applied, asked = _by_start(history), _by_start(wanted)
    merged: list[Price] = []
    for start in sorted({*applied, *asked}):
        old, new = applied.get(start, []), asked.get(start, [])
        begun = timestamp_to_ms(start) <= now_ms
        at = f"model {model}, price from {format_timestamp(start)}"
        if new:
            rows = _merge_revisions(at, old, new)
            if old and rows != old:
                warnings.append(f"{at}: another amount becomes revision {rows[-1].revision}")
            elif history and not old and begun:
                warnings.append(f"{at}: begins in the past, and holds for requests admitted from now on")
            merged += rows
        elif begun:
            warnings.append(f"{at}: not in the file, kept, for costs may name it")
            merged += old
        else:
            warnings.append(f"{at}: not in the file and not begun, so it is withdrawn")
    return merged


def _by_start(prices: Sequence[Price]) -> dict[datetime, list[Price]]:
    rows: dict[datetime, list[Price]] = {}
    for price in prices:
        rows.setdefault(price.from_, []).append(price)
    return rows


def _merge_revisions(at: str, old: list[Price], new: list[Price]) -> list[Price]:
    last = old[-1].revision if old else 0
    if old and len(new) == 1 and new[0].revision == 1:
        # People write no revision: another amount is a correction.
        changed = not _same_amounts(old[-1], new[0])
        return [*old, new[0].model_copy(update={"revision": last + 1})] if changed else old
    merged = list(old)
    for price in new:
        before = next((row for row in old if row.revision == price.revision), None)
        if before is not None and _same_amounts(before, price):
            continue
        if price.revision != merged[-1].revision + 1 if merged else price.revision != 1:
            state = "is applied and cannot change" if price.revision <= last else "is not the next"
            raise ValueError(f"{at}: revision {price.revision} {state}; leave revision out")
        merged.append(price)
    return merged


def _same_amounts(one: Price, other: Price) -> bool:
    return _amounts(one) == _amounts(other)


def _amounts(price: Price) -> tuple[int, int, int]:
    cached = price.input if price.cached_input is None else price.cached_input
    return nano_per_million(price.input), nano_per_million(cached), nano_per_million(price.output)


def _missing_names(content: CatalogFile, applied: Mapping[str, CatalogEntry]) -> list[Problem]:
    known = set(applied)
    known |= {f"provider/{provider.provider}" for provider in content.providers}
    known |= {f"pool/{pool.pool}" for pool in content.pools}
    known |= {f"model/{model.model}" for model in content.models}
    problems: list[Problem] = []
    for index, model in enumerate(content.models):
        for kind, name in (("provider", model.provider), ("pool", model.pool)):
            if f"{kind}/{name}" not in known:
                problems.append((("models", index, kind), f"names the {kind} {name}, which does not exist"))
        if f"route/{model.model}" in applied and model.model not in content.routes:
            problems.append(
                (("models", index, "model"), "has the name of an applied route; a request could mean either")
            )
    for route, models in content.routes.items():
        if f"model/{route}" in applied:
            problems.append((("routes", route), "has the name of an applied model; a request could mean either"))
        for index, name in enumerate(models):
            if f"model/{name}" not in known:
                problems.append((("routes", route, index), f"names the model {name}, which does not exist"))
    return problems


def _compare(
    wanted: Mapping[str, WireModel],
    applied: Mapping[str, WireModel],
    *,
    rewrite: frozenset[str],
    prune: bool,
    warnings: tuple[str, ...],
) -> Plan:
    changes = []
    for key, after in wanted.items():
        before = applied.get(key)
        value = encode(after)
        if before is None:
            changes.append(Change("add", key, value))
        elif key in rewrite:
            changes.append(Change("change", key, value, ("its last record cannot be read: written anew",)))
        elif encode(before) != value:
            changes.append(Change("change", key, value, _differences(before, after)))
    extra = [key for key in applied if key not in wanted]
    if prune:
        # In the opposite order of the additions: what names something goes before what is named.
        order = ("route/", "model/", "pool/", "provider/")
        ranked = sorted(extra, key=lambda key: next((i for i, kind in enumerate(order) if key.startswith(kind)), 0))
        changes += [Change("remove", key, _removal(applied[key])) for key in ranked]
        extra = []
    return Plan(tuple(changes), tuple(extra), warnings)


def _removal(entry: WireModel) -> bytes | None:
    """A tombstone; of a model a record that keeps its prices, which compaction would forget."""
    if isinstance(entry, CatalogEntry) and entry.kind == "model":
        return encode(entry.model_copy(update={"retired": True}))
    return None


def _differences(before: WireModel, after: WireModel) -> tuple[str, ...]:
    old, new = (flat_fields(value) for value in (before, after))
    return tuple(
        f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name) and not (_emptied(name, old, new) or _emptied(name, new, old))
    )


def _emptied(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether it is an empty collection whose members, on the other side, speak for themselves."""
    return one.get(name) in ({}, []) and any(path.startswith((f"{name}.", f"{name}[")) for path in other)


def flat_fields(value: WireModel) -> dict[str, Any]:
    """The members of an entry by their path in the file, without ``schema`` and without the entry's kind."""
    document = value.model_dump(mode="json", by_alias=True, exclude={"schema_"})
    if isinstance(value, CatalogEntry):
        document = document[value.kind]
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = list(document.items())
    while waiting:
        path, item = waiting.pop(0)
        if isinstance(item, dict) and item:
            waiting[:0] = [(f"{path}.{name}", member) for name, member in item.items()]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            waiting[:0] = [(f"{path}[{index}]", member) for index, member in enumerate(item)]
        else:
            flat[path] = item
    return flat
