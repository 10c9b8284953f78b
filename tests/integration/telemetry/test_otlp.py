from __future__ import annotations

import httpx
from fastapi import FastAPI

from orchestrator.telemetry import propagation
from orchestrator.telemetry.http import instrument_app


async def test_a_request_and_the_batch_it_caused_arrive_at_the_collector_linked(sink, telemetry_to):
    telemetry = telemetry_to(sink.url + "/")
    app = FastAPI()
    stored = []

    @app.post("/v1/campaigns/{campaign_id}/launch")
    async def launch(campaign_id: str) -> None:
        stored.append(propagation.inject())

    instrument_app(app, telemetry.tracer_provider, telemetry.meter_provider)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        await client.post("/v1/campaigns/cmp_a/launch")
    with telemetry.tracer.start_as_current_span("process", links=propagation.links_of(stored)):
        telemetry.instruments.transitions.add(3, {"to": "offered", "campaign.kind": "update"})
    telemetry.shutdown()

    spans = {span.name: span for span in sink.spans()}
    assert spans.keys() == {"POST /v1/campaigns/{campaign_id}/launch", "process"}
    command = spans["POST /v1/campaigns/{campaign_id}/launch"]
    assert [link.trace_id for link in spans["process"].links] == [command.trace_id]
    assert sink.services() == {"bellwether-api"}
    series = sink.series()
    (point,) = series["ota.device.transitions"]
    assert point.as_int == 3
    assert "http.server.request.duration" in series


def test_a_collector_that_refuses_costs_nothing_but_its_data(sink, telemetry_to):
    sink.status = 400
    telemetry = telemetry_to(sink.url)
    with telemetry.tracer.start_as_current_span("command"):
        telemetry.instruments.gate_evaluations.add(1, {"verdict": "hold", "reason": "soak"})
    assert b"ota_campaign_gate_evaluations_total{" in telemetry.metrics_text()
    telemetry.shutdown()
    assert sink.requests >= 2
    assert not sink.spans()


def test_a_collector_that_is_away_does_not_keep_a_process_from_ending(telemetry_to):
    telemetry = telemetry_to("http://127.0.0.1:9")  # the discard port: nobody listens
    with telemetry.tracer.start_as_current_span("command"):
        telemetry.instruments.gate_evaluations.add(1, {"verdict": "hold", "reason": "soak"})
    telemetry.shutdown()
