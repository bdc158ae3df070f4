"""``fairlane.catalog.v1``: providers, pools, models with prices, and routes.

The file people write holds all of them; the ``catalog`` topic holds one record an entry, keyed
``<kind>/<name>``, so that a change of one model does not rewrite the others.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fairlane.schemas.base import (
    ADDRESS_OR_ENV,
    DECIMAL,
    ENV_REFERENCE,
    HTTP_ADDRESS,
    MAX_SAFE_INTEGER,
    NAME,
    PARAMETER_NAME,
    PATTERN_MEANINGS,
    TOPIC_SAFE_NAME,
    VISIBLE_ASCII,
    Timestamp,
    TokenCount,
    WireModel,
)

CATALOG_SCHEMA = "fairlane.catalog.v1"
PRICE_DECIMALS_MAX = 9
_NANO_PER_USD = 1_000_000_000
_TOKENS_PER_PRICE = 1_000_000


def _usd_amount(text: str) -> str:
    amount = Decimal(text)
    if amount > 1_000_000:
        raise ValueError("must be between 0 and 1000000 USD per million tokens")
    if -int(amount.as_tuple().exponent) > PRICE_DECIMALS_MAX:
        raise ValueError(f"must have at most {PRICE_DECIMALS_MAX} decimals (a nano-dollar)")
    return text


def _no_number(amount: Any) -> Any:
    # People who leave out the quotes are told of them; "must be a string" would not tell why.
    if isinstance(amount, int | float):
        raise ValueError(PATTERN_MEANINGS[DECIMAL])  # noqa: TRY004  (pydantic turns a ValueError into a violation)
    return amount


UsdPerMillionTokens = Annotated[str, BeforeValidator(_no_number), Field(pattern=DECIMAL), AfterValidator(_usd_amount)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=NAME)]
TopicSafeName = Annotated[str, Field(min_length=1, max_length=100, pattern=TOPIC_SAFE_NAME)]
ParameterName = Annotated[str, Field(min_length=1, max_length=64, pattern=PARAMETER_NAME)]


class Price(WireModel):
    """Effective from ``from`` on. A correction of the same instant gets the next ``revision``."""

    from_: Timestamp = Field(alias="from")
    input: UsdPerMillionTokens
    cached_input: UsdPerMillionTokens | None = None
    output: UsdPerMillionTokens
    revision: Annotated[int, Field(ge=1, le=1_000_000)] = 1

    @model_validator(mode="after")
    def _fits_its_id(self) -> Price:
        # The price_id names the second; two prices within one could not be told apart.
        if self.from_.microsecond:
            raise ValueError("from must be a whole second")
        return self

    @model_validator(mode="after")
    def _cache_is_not_dearer(self) -> Price:
        # A hold assumes no cached token, so a dearer cached price could exceed it.
        if self.cached_input is not None and Decimal(self.cached_input) > Decimal(self.input):
            raise ValueError("cached_input must not be above input")
        return self


class Provider(WireModel):
    """A place to call. ``key`` is ``env:NAME``: the secret itself never enters a topic."""

    provider: Name
    kind: Literal["openai-compatible", "openai-sdk"] = "openai-compatible"
    base_url: Annotated[str, Field(max_length=2048, pattern=HTTP_ADDRESS)]
    key: Annotated[str, Field(max_length=256, pattern=ENV_REFERENCE)] | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=3_600_000)] = 120_000


class ProviderInFile(Provider):
    """A provider as people write it: ``base_url`` may be ``env:NAME``, whose value is applied."""

    base_url: Annotated[str, Field(max_length=2048, pattern=ADDRESS_OR_ENV)]


class Pool(WireModel):
    """Capacity that models share: at most ``slots`` calls in flight."""

    pool: TopicSafeName
    slots: Annotated[int, Field(ge=1, le=100_000)]


class Model(WireModel):
    """A model tenants can name, with its limits and its price history (oldest first)."""

    model: Name
    provider: Name
    pool: TopicSafeName
    provider_model: Annotated[str, Field(min_length=1, max_length=256, pattern=VISIBLE_ASCII)] | None = None
    context_tokens: Annotated[TokenCount, Field(ge=1)]
    max_output_tokens: Annotated[TokenCount, Field(ge=1)]
    extra_params: Annotated[list[ParameterName], Field(max_length=100)] = Field(default_factory=list)
    prices: Annotated[list[Price], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _prices_in_order(self) -> Model:
        keys = [(price.from_, price.revision) for price in self.prices]
        if keys != sorted(set(keys)):
            raise ValueError("prices must be in order of their from dates, each date and revision once")
        return self

    @model_validator(mode="after")
    def _dearest_call_fits(self) -> Model:
        output_tokens = min(self.max_output_tokens, self.context_tokens)
        for price in self.prices:
            dollars = self.context_tokens * Decimal(price.input) + output_tokens * Decimal(price.output)
            if dollars * _NANO_PER_USD > MAX_SAFE_INTEGER * _TOKENS_PER_PRICE:
                raise ValueError("the dearest possible call must cost less than 9007199 USD")
        return self


RouteModels = Annotated[list[Name], Field(min_length=1, max_length=100)]
"""Names of models, best first."""


class CatalogFile(WireModel):
    """The file people write."""

    providers: list[ProviderInFile] = Field(default_factory=list)
    pools: list[Pool] = Field(default_factory=list)
    models: list[Model] = Field(default_factory=list)
    routes: dict[Name, RouteModels] = Field(default_factory=dict)


class RouteEntry(WireModel):
    """A route as an entry: the models to try, best first."""

    route: Name
    models: RouteModels


class CatalogEntry(WireModel):
    """One record of the ``catalog`` topic; exactly the member named by ``kind`` is set.

    ``retired``: a model that was removed. Nothing can be sent to it; the record stays, for costs name its
    prices, and a tombstone would let a later price take the same ``price_id`` with other amounts.
    """

    schema_: Literal["fairlane.catalog.v1"] = Field(default="fairlane.catalog.v1", alias="schema")
    kind: Literal["provider", "pool", "model", "route"]
    provider: Provider | None = None
    pool: Pool | None = None
    model: Model | None = None
    route: RouteEntry | None = None
    retired: bool = False

    @model_validator(mode="after")
    def _one_member(self) -> CatalogEntry:
        for kind in ("provider", "pool", "model", "route"):
            if (getattr(self, kind) is not None) != (kind == self.kind):
                raise ValueError(f"kind is {self.kind}, so only {self.kind} is set")
        if self.retired and self.kind != "model":
            raise ValueError("only a model is retired; anything else is deleted")
        return self

    @property
    def key(self) -> str:
        """The record key: ``<kind>/<name>``."""
        match self.kind:
            case "provider" if self.provider:
                return f"provider/{self.provider.provider}"
            case "pool" if self.pool:
                return f"pool/{self.pool.pool}"
            case "model" if self.model:
                return f"model/{self.model.model}"
            case "route" if self.route:
                return f"route/{self.route.route}"
        raise AssertionError("unreachable: _one_member holds")
