"""Tenants and catalog as one immutable value, folded from the records of their two compacted topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from fairlane.errors import Poison
from fairlane.policy.pricing import PriceRow, nano_per_million, price_id
from fairlane.ports import Record
from fairlane.schemas.base import WireModel, timestamp_to_ms
from fairlane.schemas.catalog import CatalogEntry, Model, Pool, Price, Provider
from fairlane.schemas.codec import DecodeError, decode
from fairlane.schemas.tenant import Tenant

M = TypeVar("M", bound=WireModel)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model with its prices as integers, in the order :func:`~fairlane.policy.pricing.price_at` takes."""

    model: Model
    prices: tuple[PriceRow, ...]


@dataclass(frozen=True, slots=True)
class ConfigView:
    """What is applied now. ``version`` is ``t<next offset of tenants>-c<next offset of catalog>``.

    A model whose provider or pool is not applied stands in ``models`` all the same, so that a request
    for it can be told what is missing; see :meth:`fault`.
    """

    version: str = "t0-c0"
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    providers: Mapping[str, Provider] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    retired_pools: frozenset[str] = frozenset()
    """Pools that were removed: nothing goes there any more, but what waits there still ends."""

    def fault(self, model: str) -> str | None:
        """Why nothing can be sent to this model, in words for its tenant; None if it can be called."""
        entry = self.models.get(model)
        if entry is None:
            return f"the catalog has no model {model}"
        if entry.model.provider not in self.providers:
            return f"the provider {entry.model.provider} of model {model} has not been applied"
        if entry.model.pool not in self.pools:
            return f"the pool {entry.model.pool} of model {model} has not been applied"
        return None


def price_row(model: str, price: Price) -> PriceRow:
    """A price of the catalog in nano-dollars; without ``cached_input``, cached tokens cost as any input."""
    effective_ms = timestamp_to_ms(price.from_)
    return PriceRow(
        price_id=price_id(model, effective_ms, price.revision),
        effective_ms=effective_ms,
        input=nano_per_million(price.input),
        cached_input=nano_per_million(price.input if price.cached_input is None else price.cached_input),
        output=nano_per_million(price.output),
    )


class ConfigFold:
    """Takes records in order and keeps the last of each key. Not thread-safe; no I/O."""

    def __init__(self) -> None:
        self.tenants: dict[str, Tenant] = {}
        self.catalog: dict[str, CatalogEntry] = {}
        self.retired_models: dict[str, Model] = {}
        """Models that were removed, by the key they had: what they cost must keep its name."""
        self._next: dict[str, dict[int, int]] = {"t": {}, "c": {}}
        self._prices: dict[str, tuple[PriceRow, ...]] = {}
        self._retired_pools: set[str] = set()

    def take_tenant(self, record: Record) -> None:
        """Apply a record of the ``tenants`` topic; a null value deletes.

        Raises :class:`~fairlane.errors.Poison` if it is not as its contract says; what was applied for
        its key before then stays.
        """
        self._advance("t", record)
        key = _key(record)
        if record.value is None:
            self.tenants.pop(key, None)
            return
        tenant = _decoded(Tenant, record.value)
        _same_key(key, tenant.tenant_id)
        self.tenants[key] = tenant

    def take_catalog(self, record: Record) -> None:
        """Apply a record of the ``catalog`` topic; a null value deletes, and so does a retired model.

        Raises as :meth:`take_tenant`.
        """
        self._advance("c", record)
        key = _key(record)
        if record.value is None:
            removed = self.catalog.pop(key, None)
            self._prices.pop(key, None)
            if removed is not None and removed.pool is not None:
                self._retired_pools.add(removed.pool.pool)
            return
        entry = _decoded(CatalogEntry, record.value)
        _same_key(key, entry.key)
        if entry.model is not None:
            model = entry.model
            if entry.retired:
                self.retired_models[key] = model
                self.catalog.pop(key, None)
                self._prices.pop(key, None)
                return
            self.retired_models.pop(key, None)
            self._prices[key] = tuple(price_row(model.model, price) for price in model.prices)
        self.catalog[key] = entry
        if entry.pool is not None:
            self._retired_pools.discard(entry.pool.pool)

    def reached(self, tenants: Mapping[int, int], catalog: Mapping[int, int]) -> None:
        """The log ends here: everything below has been taken or no longer exists."""
        for name, ends in (("t", tenants), ("c", catalog)):
            for partition, end in ends.items():
                self._next[name][partition] = max(end, self._next[name].get(partition, 0))

    @property
    def view(self) -> ConfigView:
        """The value of this moment."""
        entries = self.catalog
        return ConfigView(
            version="-".join(f"{name}{sum(offsets.values())}" for name, offsets in self._next.items()),
            tenants=dict(self.tenants),
            providers={e.provider.provider: e.provider for e in entries.values() if e.provider is not None},
            pools={e.pool.pool: e.pool for e in entries.values() if e.pool is not None},
            models={
                e.model.model: ModelEntry(e.model, self._prices[key])
                for key, e in entries.items()
                if e.model is not None
            },
            routes={e.route.route: tuple(e.route.models) for e in entries.values() if e.route is not None},
            retired_pools=frozenset(self._retired_pools),
        )

    def _advance(self, name: str, record: Record) -> None:
        offsets = self._next[name]
        offsets[record.partition] = max(offsets.get(record.partition, 0), record.offset + 1)


def _key(record: Record) -> str:
    if record.key is None:
        raise Poison("the record has no key")
    try:
        return record.key.decode()
    except UnicodeDecodeError:
        raise Poison("the key is not UTF-8") from None


def _decoded(model: type[M], value: bytes) -> M:
    try:
        return decode(model, value)
    except DecodeError as failure:
        raise Poison(str(failure)) from None


def _same_key(key: str, expected: str) -> None:
    if key != expected:
        raise Poison("the key does not name the entry in the value")
