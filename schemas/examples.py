"""One example of every contract: shown in the generated documents, pinned as golden bytes by the tests."""

from __future__ import annotations

from datetime import UTC, datetime

from fairlane.schemas.attempt import Attempt, AttemptStatus
from fairlane.schemas.base import WireModel
from fairlane.schemas.catalog import CatalogEntry, CatalogFile, Model, Pool, Price, Provider, ProviderInFile
from fairlane.schemas.chat import ChatBody, Message
from fairlane.schemas.chunk import Chunk
from fairlane.schemas.command import Command
from fairlane.schemas.dead_letter import DeadLetter
from fairlane.schemas.decision import Decision, DecisionKind, Reason
from fairlane.schemas.errors import ErrorCode, error
from fairlane.schemas.job import Dispatch, Job, JobRoute, Ticket
from fairlane.schemas.request import Request
from fairlane.schemas.result import Cost, Result, Route, Status, Timings, Usage
from fairlane.schemas.scheduler_state import SchedulerState
from fairlane.schemas.tenant import Tenant, TenantsFile

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_CONFIG = "t5-c12"
_LABELS = {"project": "search"}


def _at(second: int, millisecond: int = 0) -> datetime:
    return datetime(2026, 11, 20, 18, 0, second, millisecond * 1000, tzinfo=UTC)


def examples() -> dict[str, WireModel]:
    """An example by the name of its contract; all tell of the same request where they can."""
    usage = Usage(input_tokens=9, output_tokens=12)
    cost = Cost(nano_usd=8550, price_id="sim-small@2026-11-01")
    return {
        "request": _request(),
        "result": _result(usage, cost),
        "rejected-result": _rejected_result(),
        "decision": Decision(
            decision_id="fairlane.requests/3/1207/rejected",
            event_time=_at(0, 4),
            stage="gate",
            kind=DecisionKind.REJECTED,
            tenant_id="acme",
            request_id="r-2",
            reason=Reason(
                code="queue_full",
                message="200 of 200 undispatched requests",
                limit=200,
                used=200,
                unit="requests",
                suggestion="wait for results, or raise max_undispatched",
            ),
            attributes={"model": "sim-small"},
            config_version=_CONFIG,
            trace_id=_TRACE,
        ),
        "attempt": Attempt(
            attempt_id="acme/r-1/1",
            request_id="r-1",
            tenant_id="acme",
            attempt=1,
            status=AttemptStatus.SUCCEEDED,
            pool="sim",
            provider="sim",
            model="sim-small",
            worker="worker-1",
            started_at=_at(0, 9),
            completed_at=_at(0, 189),
            model_ms=180.2,
            http_status=200,
            provider_request_id="chatcmpl-sim-1",
            finish_reason="stop",
            usage=usage,
            cost=cost,
            config_version=_CONFIG,
            trace_id=_TRACE,
        ),
        "chunk": Chunk(
            request_id="r-1",
            tenant_id="acme",
            attempt=1,
            sequence=0,
            event_time=_at(0, 70),
            delta={"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "Hi"}}]},
        ),
        "command": Command(command="cancel", tenant_id="acme", request_id="r-1"),
        "dead-letter": DeadLetter(
            dead_letter_id="fairlane.requests/3/1208",
            event_time=_at(1),
            stage="gate",
            source_topic="fairlane.requests",
            source_partition=3,
            source_offset=1208,
            error=error(ErrorCode.INVALID_JSON, "the value is empty"),
            payload_bytes=0,
            payload_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            config_version=_CONFIG,
        ),
        "tenant": _tenant(),
        "catalog-provider": CatalogEntry(kind="provider", provider=_provider()),
        "catalog-model": CatalogEntry(kind="model", model=_model()),
        "tenants-file": TenantsFile(tenants=[_tenant()]),
        "catalog-file": CatalogFile(
            providers=[ProviderInFile.model_validate(dict(_provider()))],
            pools=[Pool(pool="sim", slots=64)],
            models=[_model()],
            routes={"auto": ["sim-small"]},
        ),
        "job": _job(),
        "ticket": Ticket(
            tenant_id="acme",
            request_id="r-1",
            priority="normal",
            model="sim-small",
            input_tokens=9,
            output_limit=64,
            received_ms=1_795_197_600_000,
            admitted_ms=1_795_197_600_004,
            deadline_ms=1_795_197_630_000,
            trace_id=_TRACE,
        ),
        "dispatch": Dispatch(epoch=1_795_197_000_000, dispatched_ms=1_795_197_600_007),
        "scheduler-state": SchedulerState(
            pool="sim",
            epoch=1_795_197_000_000,
            event_time=_at(5),
            counters={"acme": 1024.5},
            floor=1000.0,
            predicted_output={"sim-small": 48.25},
        ),
    }


def _request() -> Request:
    return Request(
        schema="fairlane.request.v1",
        request_id="r-1",
        tenant_id="acme",
        idempotency_key="order-17",
        deadline=_at(30),
        labels=_LABELS,
        body=ChatBody(model="auto", messages=[Message(role="user", content="Hello")], max_tokens=64),
    )


def _result(usage: Usage, cost: Cost) -> Result:
    message = {"role": "assistant", "content": "Hi. How can I help?"}
    return Result(
        request_id="r-1",
        tenant_id="acme",
        idempotency_key="order-17",
        priority="normal",
        status=Status.SUCCEEDED,
        response={
            "id": "chatcmpl-sim-1",
            "object": "chat.completion",
            "model": "sim-small",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        },
        usage=usage,
        cost=cost,
        route=Route(pool="sim", provider="sim", model="sim-small", reason="route auto: its first callable model"),
        timings=Timings(
            received_at=_at(0),
            admitted_at=_at(0, 4),
            dispatched_at=_at(0, 7),
            completed_at=_at(0, 190),
            queue_ms=3.1,
            model_ms=180.2,
            added_ms=6.4,
        ),
        attempts=1,
        labels=_LABELS,
        config_version=_CONFIG,
    )


def _rejected_result() -> Result:
    return Result(
        request_id="r-2",
        tenant_id="acme",
        status=Status.REJECTED,
        error=error(ErrorCode.SCHEMA_VIOLATION, "must be at most 2", field="body.temperature"),
        timings=Timings(received_at=_at(0), completed_at=_at(0, 4)),
        config_version=_CONFIG,
    )


def _tenant() -> Tenant:
    return Tenant(tenant_id="acme", weight=2.0, max_undispatched=200, labels={"plan": "pro"})


def _provider() -> Provider:
    return Provider(provider="sim", base_url="http://127.0.0.1:9999/v1", key="env:SIM_KEY")


def _model() -> Model:
    first = Price.model_validate(
        {"from": datetime(2026, 11, 1, tzinfo=UTC), "input": "0.15", "cached_input": "0.075", "output": "0.60"}
    )
    return Model(
        model="sim-small", provider="sim", pool="sim", context_tokens=32_768, max_output_tokens=4096, prices=[first]
    )


def _job() -> Job:
    return Job(
        request_id="r-1",
        tenant_id="acme",
        idempotency_key="order-17",
        priority="normal",
        deadline=_at(30),
        labels=_LABELS,
        body={"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64},
        route=JobRoute(
            pool="sim",
            provider="sim",
            kind="openai-compatible",
            base_url="http://127.0.0.1:9999/v1",
            key="env:SIM_KEY",
            timeout_ms=120_000,
            model="sim-small",
            provider_model="sim-small",
            reason="route auto: its first callable model",
            price_id="sim-small@2026-11-01",
            input_price=150_000_000,
            cached_input_price=75_000_000,
            output_price=600_000_000,
        ),
        hold_nano_usd=39_750,
        received_at=_at(0),
        admitted_at=_at(0, 4),
        config_version=_CONFIG,
        traceparent=f"00-{_TRACE}-00f067aa0ba902b7-01",
    )
