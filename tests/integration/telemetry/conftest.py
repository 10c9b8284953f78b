from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from orchestrator.telemetry.setup import build


@dataclass
class Sink:
    """An OTLP/HTTP collector that keeps what it is sent."""

    url: str
    status: int = 200
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    requests: int = 0

    def spans(self):
        return [span for t in self.traces for r in t.resource_spans for s in r.scope_spans for span in s.spans]

    def services(self) -> set[str]:
        resources = [r.resource for t in self.traces for r in t.resource_spans]
        resources += [r.resource for m in self.metrics for r in m.resource_metrics]
        return {a.value.string_value for r in resources for a in r.attributes if a.key == "service.name"}

    def series(self) -> dict[str, list]:
        found = defaultdict(list)
        for request in self.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        found[metric.name] += getattr(metric, metric.WhichOneof("data")).data_points
        return found


@pytest.fixture
def sink() -> Iterator[Sink]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.requests += 1
            kind, kept = {
                "/v1/traces": (ExportTraceServiceRequest, sink.traces),
                "/v1/metrics": (ExportMetricsServiceRequest, sink.metrics),
            }[self.path]
            if sink.status == 200:
                kept.append(kind.FromString(body))
            self.send_response(sink.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = Sink(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield sink
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass(frozen=True)
class TelemetrySettings:
    otlp_endpoint: str = ""


@pytest.fixture
def telemetry_to():
    """``telemetry_to(endpoint)``: telemetry that pushes there; the test shuts it down."""
    return lambda endpoint, role="api": build(role, TelemetrySettings(endpoint))


@pytest.fixture
def series():
    """``series(telemetry, name)``: value by labels, as a scrape sees them."""

    def read(telemetry, name):
        found = {}
        for family in telemetry.registry.collect():
            for sample in family.samples:
                if sample.name == name:
                    labels = {k: v for k, v in sample.labels.items() if not k.startswith("otel_scope_")}
                    found[tuple(sorted(labels.items()))] = sample.value
        return found

    return read
