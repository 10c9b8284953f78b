from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.telemetry.setup import build


class Settings:
    otlp_endpoint = ""


def test_the_process_says_which_role_it_is(telemetry):
    telemetry.instruments.events_lag.set(1, {"topic": "t"})
    text = telemetry.metrics_text().decode()
    assert 'service_name="bellwether-api"' in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize(("role", "kept"), [("api", 1_000), ("relay", 1_000), ("gateway", 10)])
def test_commands_are_always_traced_and_the_device_firehose_is_sampled(role, kept):
    telemetry = build(role, Settings())
    sampled = sum(telemetry.tracer.start_span("x").get_span_context().trace_flags.sampled for _ in range(1_000))
    telemetry.shutdown()
    assert sampled == kept if kept == 1_000 else sampled < 100


def test_a_span_that_is_not_sampled_still_has_an_id_to_log():
    telemetry = build("gateway", Settings())
    contexts = [telemetry.tracer.start_span("x").get_span_context() for _ in range(100)]
    telemetry.shutdown()
    assert all(context.is_valid for context in contexts)


def test_providers_are_installed_once_and_instruments_made_before_work():
    script = """
from orchestrator.telemetry.instruments import instruments
instruments().halts.replace([(2, {"cause": "gate"})])
instruments().gate_evaluations.add(1, {"verdict": "hold", "reason": "soak"})
from orchestrator.telemetry.setup import setup
class Settings: otlp_endpoint = ""
telemetry = setup("relay", Settings())
telemetry.instruments.gate_evaluations.add(4, {"verdict": "hold", "reason": "soak"})
text = telemetry.metrics_text().decode()
assert 'ota_campaign_halts_total{cause="gate"' in text, text
assert [line for line in text.splitlines() if line.startswith("ota_campaign_gate_evaluations_total") and line.endswith(" 4.0")], text
try:
    setup("relay", Settings())
except RuntimeError as error:
    assert "relay" in str(error)
else:
    raise SystemExit("installed twice")
telemetry.shutdown()
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
