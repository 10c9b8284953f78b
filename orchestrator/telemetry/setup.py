"""Providers of traces and metrics, set once per process before a framework is imported that could ask for them.

Metrics are always there as text for ``/metrics``; with ``OTA_OTLP_ENDPOINT`` they and the traces are also pushed. The
safety gate reads neither: without telemetry an alert fires and every campaign goes on as before.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

from orchestrator.telemetry.instruments import SCOPE, Instruments, instruments, views

SEMCONV_OPT_IN: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"

SAMPLED_SHARE: Final = {"gateway": 0.01, "projector": 0.01, "worker": 0.1}
"""Share of traces that start in a role and are kept. Commands and what operators do: all. The device firehose: 1 %.
Activities poll many times a second: 10 %. A trace that began elsewhere keeps the decision of where it began."""

EXPORT_INTERVAL: Final = 15.0
"""Seconds between two pushes of metrics: Prometheus' usual resolution."""

EXPORT_TIMEOUT: Final = 5.0
"""Seconds for one push: a collector that is away must not hold up the end of a process."""


class _Settings(Protocol):
    @property
    def otlp_endpoint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process's telemetry consists of."""

    role: str
    instruments: Instruments
    tracer: trace.Tracer
    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    registry: CollectorRegistry

    def metrics_text(self) -> bytes:
        """All series in Prometheus' text format, for ``/metrics``."""
        return generate_latest(self.registry)

    def shutdown(self) -> None:
        """Push what is left and stop. Takes at most a few seconds; a collector that is away is no error."""
        self.tracer_provider.shutdown()
        # Per reader: one that cannot push raises, and the others would not be stopped.
        try:
            self.meter_provider.shutdown(timeout_millis=EXPORT_TIMEOUT * 1_000)
        except Exception:  # noqa: BLE001 (the SDK raises a bare Exception with what its readers raised)
            logging.getLogger(__name__).warning("metrics were not pushed before the end")


def setup(role: str, settings: _Settings) -> Telemetry:
    """Install the process's providers and return them. Call it once, before FastAPI or Faust are imported.

    ``instruments()`` and every tracer and meter that was handed out before work from now on.

    Raises:
        RuntimeError: they are installed already.
    """
    global _installed  # noqa: PLW0603 (OpenTelemetry's providers are global too, and can be set only once)
    if _installed is not None:
        raise RuntimeError(f"telemetry is already set up, as {_installed}")
    telemetry = build(role, settings, instruments())
    trace.set_tracer_provider(telemetry.tracer_provider)
    metrics.set_meter_provider(telemetry.meter_provider)
    _installed = role
    return telemetry


_installed: str | None = None


def build(role: str, settings: _Settings, using: Instruments | None = None) -> Telemetry:
    """Make providers without installing them: for whoever needs more than one set in a process, as tests do.

    Args:
        role: one of the roles, or ``cli``.
        settings: where to push to, if anywhere.
        using: instruments that are bound to the global meter; by default new ones, bound to this provider.
    """
    os.environ[SEMCONV_OPT_IN] = "http"
    resource = Resource.create({"service.name": f"bellwether-{role}", "service.namespace": SCOPE})
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    readers: list[MetricReader] = [PrometheusMetricReader(registry=registry)]
    tracer_provider = TracerProvider(resource=resource, sampler=_sampler(role), shutdown_on_exit=False)
    endpoint = settings.otlp_endpoint.rstrip("/")
    if endpoint:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        spans = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=EXPORT_TIMEOUT)
        tracer_provider.add_span_processor(BatchSpanProcessor(spans))
        readers.append(
            PeriodicExportingMetricReader(
                OTLPMetricExporter(f"{endpoint}/v1/metrics", timeout=EXPORT_TIMEOUT),
                export_interval_millis=EXPORT_INTERVAL * 1_000,
                export_timeout_millis=EXPORT_TIMEOUT * 1_000,
            )
        )
    meter_provider = MeterProvider(metric_readers=readers, resource=resource, views=views(), shutdown_on_exit=False)
    return Telemetry(
        role=role,
        instruments=using or Instruments(meter_provider.get_meter(SCOPE)),
        tracer=tracer_provider.get_tracer(SCOPE),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        registry=registry,
    )


def _sampler(role: str) -> Sampler:
    return ParentBased(TraceIdRatioBased(SAMPLED_SHARE.get(role, 1.0)))
