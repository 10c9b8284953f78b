from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.telemetry.http import instrument_app


@pytest.fixture
def exported(telemetry):
    exporter = InMemorySpanExporter()
    telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
async def client(telemetry):
    app = FastAPI()
    router = APIRouter(prefix="/v1")

    @router.get("/campaigns/{campaign_id}")
    async def campaign(campaign_id: str) -> dict[str, str]:
        return {"id": campaign_id}

    @router.get("/events")
    async def events() -> list[str]:
        return []

    @router.post("/campaigns/{campaign_id}/halt")
    async def halt(campaign_id: str) -> None:
        raise LookupError(campaign_id)

    app.include_router(router)

    @app.get("/metrics")
    async def metrics() -> str:
        return ""

    instrument_app(app, telemetry.tracer_provider, telemetry.meter_provider)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def test_the_duration_is_in_seconds_with_the_full_route(client, series):
    await client.get("/v1/campaigns/cmp_a")
    (labels,) = series("http_server_request_duration_seconds_count")
    assert {
        "http_route": "/v1/campaigns/{campaign_id}",
        "http_request_method": "GET",
        "http_response_status_code": "200",
    }.items() <= dict(labels).items()
    assert not series("http_server_duration_milliseconds_count")
    (seconds,) = series("http_server_request_duration_seconds_sum").values()
    assert 0 < seconds < 5


async def test_a_request_is_one_span_named_by_its_route(client, exported):
    await client.get("/v1/campaigns/cmp_a")
    (span,) = exported.get_finished_spans()
    assert span.name == "GET /v1/campaigns/{campaign_id}"


async def test_probes_and_event_streams_have_neither_span_nor_series(client, exported, series):
    for path in ("/metrics", "/v1/events", "/v1/events?campaign=cmp_a", "/healthz"):
        await client.get(path)
    assert not exported.get_finished_spans()
    assert not series("http_server_request_duration_seconds_count")


async def test_a_method_that_the_route_lacks_is_answered_405(client):
    # Instrumentation before 0.64 answered 500 on routes that matched in part.
    assert (await client.delete("/v1/campaigns/cmp_a")).status_code == 405


async def test_an_unexpected_error_is_recorded_on_the_span(client, exported):
    assert (await client.post("/v1/campaigns/cmp_a/halt")).status_code == 500
    (span,) = exported.get_finished_spans()
    assert span.status.is_ok is False
    assert [event.attributes["exception.type"] for event in span.events] == ["LookupError"]
