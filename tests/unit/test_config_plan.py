"""Applying a file changes only what differs, and never rewrites what something once cost."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fairlane.agents.config_file import read_catalog_file, read_tenants_file
from fairlane.agents.config_plan import Plan, plan_catalog, plan_tenants
from fairlane.agents.config_view import ConfigFold, price_row
from fairlane.errors import Reject
from fairlane.ports import Record
from fairlane.schemas.catalog import CatalogEntry

NOW = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp() * 1000)
HEAD = """
providers: [{provider: sim, base_url: "http://127.0.0.1:9999/v1"}]
pools: [{pool: sim, slots: 8}]
"""
OLD = '{from: 2026-11-01T00:00:00Z, input: "0.15", output: "0.60"}'


def model(*prices: str, name: str = "small", pool: str = "sim") -> str:
    rows = "\n".join(f"      - {price}" for price in prices or (OLD,))
    return f"""  - model: {name}
    provider: sim
    pool: {pool}
    context_tokens: 1000
    max_output_tokens: 100
    prices:
{rows}
"""


def catalog(*models: str, head: str = HEAD, tail: str = "") -> str:
    return head + ("models:\n" + "".join(models) if models else "") + tail


class Applied:
    """The catalog topic: what plans write is what the next plan compares with."""

    def __init__(self) -> None:
        self.fold = ConfigFold()
        self._offset = 0
        self._log: list[Record] = []

    @property
    def entries(self) -> dict[str, CatalogEntry]:
        return self.fold.catalog

    def plan(self, text: str, *, prune: bool = False, now_ms: int = NOW) -> Plan:
        file = read_catalog_file(text, "catalog.yaml")
        return plan_catalog(
            file,
            self.entries,
            rewrite=frozenset(),
            prune=prune,
            now_ms=now_ms,
            retired=self.fold.retired_models,
        )

    def apply(self, text: str, *, prune: bool = False, now_ms: int = NOW) -> Plan:
        plan = self.plan(text, prune=prune, now_ms=now_ms)
        for change in plan.changes:
            record = Record("catalog", 0, self._offset, NOW, change.key.encode(), change.value)
            self._log.append(record)
            self.fold.take_catalog(record)
            self._offset += 1
        return plan

    def compact(self) -> None:
        """As the broker does: of each key only the last record is left, and of a deleted one none."""
        last = {record.key: record for record in self._log}
        self.fold = ConfigFold()
        for record in last.values():
            if record.value is not None:
                self.fold.take_catalog(record)

    def price_ids(self) -> list[str]:
        entry = self.entries["model/small"].model
        assert entry is not None
        return [price_row("small", price).price_id for price in entry.prices]


def actions(plan: Plan) -> list[tuple[str, str]]:
    return [(change.action, change.key) for change in plan.changes]


@pytest.fixture
def applied() -> Applied:
    return Applied()


def test_a_first_catalog_is_written_in_the_order_its_parts_need_each_other(applied: Applied) -> None:
    plan = applied.apply(catalog(model(), tail="routes: {auto: [small]}"))
    assert actions(plan) == [
        ("add", "provider/sim"), ("add", "pool/sim"), ("add", "model/small"), ("add", "route/auto"),
    ]  # fmt: skip
    assert plan.pools == ("sim",)


def test_the_same_file_again_changes_nothing(applied: Applied) -> None:
    text = catalog(model(), tail="routes: {auto: [small]}")
    applied.apply(text)
    plan = applied.plan(text)
    assert (plan.changes, plan.only_applied, plan.warnings, plan.pools) == ((), (), (), ("sim",))


def test_one_changed_entry_is_one_record_with_the_difference_in_words(applied: Applied) -> None:
    applied.apply(catalog(model()))
    plan = applied.apply(catalog(model()).replace("slots: 8", "slots: 16"))
    assert actions(plan) == [("change", "pool/sim")]
    assert plan.changes[0].differences == ("slots: 8 -> 16",)


def test_what_the_file_leaves_out_stays_unless_it_is_pruned(applied: Applied) -> None:
    applied.apply(catalog(model(), model(name="other"), tail="routes: {auto: [small, other], o: [other]}"))
    smaller = catalog(model(), tail="routes: {auto: [small]}")
    plan = applied.plan(smaller)
    assert actions(plan) == [("change", "route/auto")]
    assert plan.only_applied == ("model/other", "route/o")
    plan = applied.apply(smaller, prune=True)
    assert actions(plan) == [("change", "route/auto"), ("remove", "route/o"), ("remove", "model/other")]
    assert set(applied.entries) == {"provider/sim", "pool/sim", "model/small", "route/auto"}


def test_a_new_price_date_is_added_to_the_history(applied: Applied) -> None:
    applied.apply(catalog(model()))
    applied.apply(catalog(model(OLD, '{from: 2027-01-01T00:00:00Z, input: "0.1", output: "0.4"}')))
    assert applied.price_ids() == ["small@2026-11-01", "small@2027-01-01"]


def test_another_amount_for_an_applied_date_becomes_its_next_revision(applied: Applied) -> None:
    applied.apply(catalog(model()))
    text = catalog(model(OLD.replace("0.15", "0.20")))
    plan = applied.apply(text)
    assert applied.price_ids() == ["small@2026-11-01", "small@2026-11-01.r2"]
    assert plan.warnings == ("model small, price from 2026-11-01T00:00:00.000Z: another amount becomes revision 2",)
    assert applied.apply(text).changes == ()
    applied.apply(catalog(model()))
    assert applied.price_ids() == ["small@2026-11-01", "small@2026-11-01.r2", "small@2026-11-01.r3"]


def test_the_same_amount_in_other_digits_is_no_change(applied: Applied) -> None:
    applied.apply(catalog(model()))
    assert applied.plan(catalog(model(OLD.replace("0.15", "0.1500")))).changes == ()


def test_a_begun_price_that_the_file_drops_is_kept_with_a_warning(applied: Applied) -> None:
    later = '{from: 2026-11-10T00:00:00Z, input: "0.1", output: "0.4"}'
    applied.apply(catalog(model(OLD, later)))
    plan = applied.apply(catalog(model(later)))
    assert plan.changes == ()
    assert plan.warnings == (
        "model small, price from 2026-11-01T00:00:00.000Z: not in the file, kept, for costs may name it",
    )
    assert applied.price_ids() == ["small@2026-11-01", "small@2026-11-10"]


def test_a_price_that_has_not_begun_can_be_withdrawn(applied: Applied) -> None:
    applied.apply(catalog(model(OLD, '{from: 2027-01-01T00:00:00Z, input: "0.1", output: "0.4"}')))
    plan = applied.apply(catalog(model()))
    assert applied.price_ids() == ["small@2026-11-01"]
    assert "withdrawn" in plan.warnings[0]


def test_a_new_price_that_begins_in_the_past_is_applied_with_a_warning(applied: Applied) -> None:
    applied.apply(catalog(model()))
    plan = applied.apply(catalog(model(OLD, '{from: 2026-11-10T00:00:00Z, input: "0.1", output: "0.4"}')))
    assert "begins in the past" in plan.warnings[0]
    assert applied.price_ids() == ["small@2026-11-01", "small@2026-11-10"]


def test_a_catalog_listed_with_revisions_applies_to_an_empty_installation(applied: Applied) -> None:
    second = OLD.replace("0.15", "0.20").replace("}", ", revision: 2}")
    text = catalog(model(OLD, second))
    applied.apply(text)
    assert applied.price_ids() == ["small@2026-11-01", "small@2026-11-01.r2"]
    assert applied.plan(text).changes == ()


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ([OLD.replace("0.15", "0.9"), OLD.replace("}", ", revision: 2}")], "revision 1 is applied and cannot change"),
        ([OLD, OLD.replace("}", ", revision: 3}")], "revision 3 is not the next"),
        ([OLD, '{from: 2027-01-01T00:00:00Z, input: "1", output: "1", revision: 2}'], "revision 2 is not the next"),
    ],
)
def test_a_revision_that_contradicts_the_history_is_refused(applied: Applied, prices: list[str], message: str) -> None:
    applied.apply(catalog(model()))
    with pytest.raises(Reject, match=message) as refusal:
        applied.plan(catalog(model(*prices)))
    assert str(refusal.value).startswith("catalog.yaml:")


def test_names_must_exist_in_the_file_or_be_applied(applied: Applied) -> None:
    with pytest.raises(Reject) as refusal:
        applied.plan(catalog(model(), head="", tail="routes: {auto: [small, large]}"))
    assert str(refusal.value) == (
        "catalog.yaml has 3 problems:\n"
        "  catalog.yaml:3: models[0].provider names the provider sim, which does not exist\n"
        "  catalog.yaml:4: models[0].pool names the pool sim, which does not exist\n"
        "  catalog.yaml:9: routes.auto[1] names the model large, which does not exist"
    )
    applied.apply(catalog(model(), model(name="large")))
    part = catalog(model(name="third"), head="", tail="routes: {auto: [large]}")
    assert actions(applied.plan(part)) == [("add", "model/third"), ("add", "route/auto")]
    with pytest.raises(Reject, match="names the model large, which does not exist"):
        applied.plan(part, prune=True)


def test_a_route_cannot_take_the_name_of_an_applied_model(applied: Applied) -> None:
    applied.apply(catalog(model(), model(name="large")))
    with pytest.raises(Reject, match=r"routes\.large has the name of an applied model"):
        applied.plan(catalog(model(), tail="routes: {large: [small]}"))


def test_tenants_are_compared_one_by_one() -> None:
    before = read_tenants_file("tenants: [{tenant_id: a, weight: 1}, {tenant_id: b}]", "t").content.tenants
    applied = {tenant.tenant_id: tenant for tenant in before}
    file = read_tenants_file("tenants: [{tenant_id: a, weight: 2, labels: {plan: pro}}, {tenant_id: c}]", "t")
    plan = plan_tenants(file, applied, rewrite=frozenset(), prune=False)
    assert actions(plan) == [("change", "a"), ("add", "c")]
    assert plan.changes[0].differences == ("weight: 1.0 -> 2.0", "labels.plan: none -> pro")
    assert plan.only_applied == ("b",)
    assert actions(plan_tenants(file, applied, rewrite=frozenset(), prune=True))[-1] == ("remove", "b")


def test_an_entry_whose_last_record_cannot_be_read_is_written_anew() -> None:
    file = read_tenants_file("tenants: [{tenant_id: a}]", "t")
    applied = {tenant.tenant_id: tenant for tenant in file.content.tenants}
    plan = plan_tenants(file, applied, rewrite=frozenset({"a"}), prune=False)
    assert actions(plan) == [("change", "a")]


# --- a model that goes and comes back --------------------------------------------------------------


def amounts_by_id(applied: Applied) -> dict[str, tuple[int, int, int]]:
    entry = applied.entries["model/small"].model
    assert entry is not None
    rows = [price_row("small", price) for price in entry.prices]
    return {row.price_id: (row.input, row.cached_input, row.output) for row in rows}


@pytest.mark.parametrize("compacted", [False, True])
def test_a_price_id_never_names_two_amounts_though_its_model_was_pruned_in_between(
    applied: Applied, compacted: bool
) -> None:
    applied.apply(catalog(model()))
    before = amounts_by_id(applied)
    applied.apply(HEAD, prune=True)
    assert "model/small" not in applied.entries
    assert applied.fold.view.models == {}
    if compacted:
        applied.compact()
    applied.apply(catalog(model('{from: 2026-11-01T00:00:00Z, input: "0.25", output: "0.60"}')))
    after = amounts_by_id(applied)
    assert list(after) == ["small@2026-11-01", "small@2026-11-01.r2"]
    assert before.items() <= after.items()


def test_a_model_that_comes_back_as_it_was_has_the_prices_it_had(applied: Applied) -> None:
    applied.apply(catalog(model()))
    before = amounts_by_id(applied)
    applied.apply(HEAD, prune=True)
    plan = applied.apply(catalog(model()))
    assert actions(plan) == [("add", "model/small")]
    assert amounts_by_id(applied) == before
    assert not applied.fold.retired_models


def test_pruning_again_says_nothing_of_a_model_that_is_gone(applied: Applied) -> None:
    applied.apply(catalog(model()))
    applied.apply(HEAD, prune=True)
    again = applied.plan(HEAD, prune=True)
    assert again.changes == ()
    assert again.only_applied == ()
