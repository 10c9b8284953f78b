"""Spans and durations of HTTP requests to a FastAPI application."""

from __future__ import annotations

import os
from typing import Final

from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from orchestrator.telemetry.setup import SEMCONV_OPT_IN

EXCLUDED_URLS: Final = r"/healthz$,/readyz$,/metrics$,/events$"
"""Probes would drown what people ask for, and the span of an event stream would last as long as the stream."""


def instrument_app(
    app: FastAPI, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Give the app spans and ``http.server.request.duration`` (seconds, full route). Call it before the app's first request.

    The providers are the global ones by default.
    """
    # The default is still the old convention: milliseconds, and routes without the prefix of their router.
    os.environ[SEMCONV_OPT_IN] = "http"
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        excluded_urls=EXCLUDED_URLS,
        exclude_spans=["receive", "send"],
    )
