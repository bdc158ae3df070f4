"""The replay: the trace's own arrivals and lengths, dealt to tenants, the same every time."""

from __future__ import annotations

from collections import Counter
from importlib import resources

import pytest
import yaml

from fairlane.devstack.demo.trace import TraceRow, load_trace, parse_trace
from fairlane.devstack.demo.workload import CONTEXT_TOKENS_MAX, MAX_TOKENS, TENANTS, plan, prompt_of
from fairlane.schemas.catalog import CatalogFile
from fairlane.schemas.codec import decode
from fairlane.schemas.request import Request
from fairlane.schemas.tenant import TenantsFile

TRACE = load_trace()
DATA = resources.files("fairlane.devstack.demo").joinpath("data")


def test_the_shipped_slice_is_half_an_hour_in_order_of_arrival() -> None:
    times = [row.at_s for row in TRACE]

    assert len(TRACE) == 11_316
    assert times == sorted(times)
    assert 1799 < times[-1] < 1800
    assert (TRACE[0].context_tokens, TRACE[0].generated_tokens) == (389, 55)
    assert max(row.generated_tokens for row in TRACE) <= MAX_TOKENS


def test_a_time_of_the_trace_is_read_to_the_microsecond() -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,1,2\n"
    )

    assert parse_trace(text) == [TraceRow(0.0, 374, 44), TraceRow(4.314579, 1, 2)]


def test_arrivals_are_the_traces_own_only_faster() -> None:
    planned = list(plan(TRACE, seconds=10, speed=20))

    assert [request.at_s for request in planned] == [row.at_s / 20 for row in TRACE[: len(planned)]]
    assert [request.output_tokens for request in planned] == [row.generated_tokens for row in TRACE[: len(planned)]]


def test_one_tenant_asks_a_hundred_times_as_much_as_each_other() -> None:
    counts = Counter(request.tenant.tenant_id for request in plan(TRACE, seconds=600))
    light = [counts[tenant.tenant_id] for tenant in TENANTS if not tenant.floods]

    assert len(light) == 4
    assert all(80 < counts["crawler"] / count < 125 for count in light)


def test_the_same_seed_gives_the_same_run_and_ids_are_unique() -> None:
    first, again = (list(plan(TRACE, seconds=100, run="x")) for _ in range(2))

    assert first == again
    assert len({request.request_id for request in first}) == len(first)


def test_a_run_longer_than_the_trace_starts_it_again() -> None:
    short = [TraceRow(0.0, 1, 1), TraceRow(1.0, 2, 2)]

    planned = list(plan(short, seconds=4, speed=1))

    assert [request.at_s for request in planned] == [0.0, 1.0, 1.5, 2.5, 3.0]
    with pytest.raises(ValueError, match="no rows"):
        next(plan([], seconds=1))


def test_an_event_is_one_its_contract_accepts_with_the_recorded_lengths() -> None:
    planned = next(plan(TRACE, seconds=1))

    request = decode(Request, planned.value())

    content = request.body.messages[0].content
    assert isinstance(content, str)
    assert len(content.encode()) == 4 * 389
    assert request.body.metadata == {"sim_output_tokens": "55"}


def test_no_prompt_is_longer_than_the_cap() -> None:
    giant = [TraceRow(0.0, 14_050, 1), TraceRow(1.0, 0, 0)]

    planned = list(plan(giant, seconds=1.5, speed=1))

    assert [(request.context_tokens, request.output_tokens) for request in planned] == [(CONTEXT_TOKENS_MAX, 1), (1, 1)]
    assert len(prompt_of(CONTEXT_TOKENS_MAX)) == 4 * CONTEXT_TOKENS_MAX


def test_the_tenants_file_and_the_workload_name_the_same_tenants() -> None:
    raw = yaml.safe_load(DATA.joinpath("tenants.yaml").read_text())

    file = TenantsFile.model_validate(raw)

    assert [tenant.tenant_id for tenant in file.tenants] == [tenant.tenant_id for tenant in TENANTS]
    assert len({tenant.weight for tenant in file.tenants}) == 1


def test_the_catalog_has_every_model_the_tenants_ask_for() -> None:
    raw = yaml.safe_load(
        DATA.joinpath("catalog.yaml").read_text().replace("{simulator_url}", "http://127.0.0.1:9999/v1")
    )

    file = CatalogFile.model_validate(raw)

    assert {tenant.model for tenant in TENANTS} <= {model.model for model in file.models} | set(file.routes)
    assert {model.pool for model in file.models} <= {pool.pool for pool in file.pools}
