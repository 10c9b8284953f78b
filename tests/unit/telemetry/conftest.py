from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.telemetry.setup import build


@dataclass(frozen=True)
class TelemetrySettings:
    otlp_endpoint: str = ""


@pytest.fixture
def telemetry():
    """Providers of its own, so that tests do not see each other's series."""
    made = build("api", TelemetrySettings())
    yield made
    made.shutdown()


@pytest.fixture
def series(telemetry):
    """``series(name)``: value by labels, as a scrape sees them, without the labels that every series carries."""

    def read(name: str) -> dict[tuple[tuple[str, str], ...], float]:
        found = {}
        for family in telemetry.registry.collect():
            for sample in family.samples:
                if sample.name == name:
                    labels = {k: v for k, v in sample.labels.items() if not k.startswith("otel_scope_")}
                    found[tuple(sorted(labels.items()))] = sample.value
        return found

    return read
