from __future__ import annotations

from unittest.mock import create_autospec

import pytest
from opentelemetry.metrics import Meter

from orchestrator.telemetry.instruments import ALLOWED_ATTRIBUTES, CATALOGUE, Instruments, Kind, kafka

CREATORS = {
    "create_counter": Kind.COUNTER,
    "create_histogram": Kind.HISTOGRAM,
    "create_observable_gauge": Kind.GAUGE,
    "create_observable_counter": Kind.TOTAL,
}
NEVER_AN_ATTRIBUTE = ("device.id", "device_id", "serial", "digest", "url", "detail", "text", "actor")


@pytest.fixture
def meter():
    return create_autospec(Meter, instance=True)


def test_every_catalogued_instrument_is_created_once_and_nothing_else(meter):
    Instruments(meter)
    created = {}
    for method, kind in CREATORS.items():
        for call in getattr(meter, method).call_args_list:
            name = call.args[0]
            assert name not in created
            created[name] = (kind, call.args[2] if kind in {Kind.GAUGE, Kind.TOTAL} else call.args[1])
    assert {method for method, *_ in meter.method_calls} <= CREATORS.keys()
    assert created == {name: (row.kind, row.unit) for name, row in CATALOGUE.items()}


def test_no_instrument_may_carry_what_grows_with_the_fleet():
    assert not [a for a in ALLOWED_ATTRIBUTES if any(word in a for word in NEVER_AN_ATTRIBUTE)]
    assert "campaign.id" in ALLOWED_ATTRIBUTES


def test_durations_are_in_seconds_and_names_leave_the_suffix_to_the_exporter():
    assert all(not name.endswith(("_total", ".total")) for name in CATALOGUE)
    assert all(
        row.unit == "s"
        for name, row in CATALOGUE.items()
        if name.endswith(("duration", "lag", "age")) and "position" not in name
    )


def test_an_attribute_that_is_not_allowed_makes_no_series(telemetry, series):
    for device in range(50):
        telemetry.instruments.transitions.add(1, {"to": "confirmed", "device.id": f"dev-{device}"})
    assert series("ota_device_transitions_total") == {(("to", "confirmed"),): 50}


def test_series_beyond_the_limit_are_folded_and_the_total_stays_right(telemetry, series):
    for number in range(2_500):
        telemetry.instruments.events_rejected.add(1, {"type": "t", "reason": f"r{number}"})
    found = series("ota_events_rejected_total")
    overflow = [value for labels, value in found.items() if dict(labels).get("otel_metric_overflow") == "true"]
    assert overflow == [500]
    assert len(found) == 2_001
    assert sum(found.values()) == 2_500


def test_a_gauge_shows_what_the_last_reading_held_and_forgets_the_rest(telemetry, series):
    board = telemetry.instruments.campaign_info
    board.replace([(1, {"campaign.id": "cmp_a", "state": "running", "release": "rel_1"})])
    assert len(series("ota_campaign_info")) == 1
    board.replace([(1, {"campaign.id": "cmp_b", "state": "halted", "release": "rel_1"})])
    assert [dict(labels)["campaign_id"] for labels in series("ota_campaign_info")] == ["cmp_b"]
    board.replace([])
    assert series("ota_campaign_info") == {}


def test_setting_one_value_of_a_gauge_leaves_the_others(telemetry, series):
    board = telemetry.instruments.events_lag
    board.set(1.5, {"topic": "a"})
    board.set(2.5, {"topic": "b"})
    board.set(0.5, {"topic": "a"})
    assert series("ota_events_lag_seconds") == {(("topic", "a"),): 0.5, (("topic", "b"),): 2.5}


def test_histograms_keep_the_buckets_of_the_conventions(telemetry, series):
    telemetry.instruments.process_duration.record(0.03, kafka("process", "t", group="g"))
    bounds = {dict(labels)["le"] for labels in series("messaging_process_duration_seconds_bucket")}
    assert bounds == {
        "0.005",
        "0.01",
        "0.025",
        "0.05",
        "0.075",
        "0.1",
        "0.25",
        "0.5",
        "0.75",
        "1.0",
        "2.5",
        "5.0",
        "7.5",
        "10.0",
        "+Inf",
    }


def test_kafka_attributes_are_those_of_the_conventions():
    assert kafka("send", "topic", error="KafkaTimeoutError") == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.destination.name": "topic",
        "error.type": "KafkaTimeoutError",
    }
    assert set(kafka("process", "t", group="g", error="e")) == CATALOGUE["messaging.process.duration"].attributes


def test_the_text_of_metrics_names_each_instrument_as_the_alert_rules_do(telemetry):
    shown = telemetry.instruments
    campaign = {"campaign.id": "cmp_a", "phase": "0", "rule": "harm"}
    shown.device_count.replace([(7, {"campaign.id": "cmp_a", "phase": "0", "device.state": "trial"})])
    shown.campaign_info.replace([(1, {"campaign.id": "cmp_a", "state": "running", "release": "rel_1"})])
    shown.harm_ratio.replace([(0.25, campaign)])
    shown.harm_ratio_limit.replace([(0.5, campaign)])
    shown.halts.replace([(2, {"cause": "gate"})])
    shown.outbox_depth.replace([(3, {"consumer": "kafka"})])
    shown.outbox_oldest_age.replace([(1.5, {"consumer": "kafka"})])
    shown.position_lag.replace([(4, {"projection": "fleet"})])
    shown.events_lag.set(0.5, {"topic": "t"})
    shown.gate_evaluations.add(1, {"verdict": "hold", "reason": "soak"})
    shown.transitions.add(1, {"to": "confirmed", "campaign.kind": "update"})
    shown.failures.add(1, {"class": "health"})
    shown.events_ingested.count("device.update.confirmed")
    shown.events_ingested.count("device.update.confirmed")
    shown.events_rejected.add(1, {"type": "feedback", "reason": "malformed"})
    shown.events_duplicates.add(1, {"type": "device.update.confirmed"})
    shown.dead_letters.add(1, {"topic": "t", "reason": "event.undecodable"})
    shown.invariant_violations.add(1, {"invariant": "counters_match"})
    shown.consumed_messages.add(1, {"messaging.system": "kafka"})
    shown.sent_messages.add(1, {"messaging.system": "kafka"})
    shown.process_duration.record(0.1, {"messaging.system": "kafka"})
    shown.operation_duration.record(0.1, {"messaging.system": "kafka"})
    lines = telemetry.metrics_text().decode().splitlines()
    types = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    ours = {name: kind for name, kind in types.items() if name.startswith(("ota_", "messaging_"))}
    assert ours == {
        "ota_campaign_device_count": "gauge",
        "ota_campaign_info": "gauge",
        "ota_campaign_gate_harm_ratio": "gauge",
        "ota_campaign_gate_harm_ratio_limit": "gauge",
        "ota_campaign_gate_evaluations_total": "counter",
        "ota_campaign_halts_total": "counter",
        "ota_device_transitions_total": "counter",
        "ota_device_failures_total": "counter",
        "ota_events_ingested_total": "counter",
        "ota_events_rejected_total": "counter",
        "ota_events_duplicates_total": "counter",
        "ota_events_lag_seconds": "gauge",
        "ota_dlq_messages_total": "counter",
        "ota_projection_position_lag": "gauge",
        "ota_outbox_depth": "gauge",
        "ota_outbox_oldest_age_seconds": "gauge",
        "ota_invariant_violations_total": "counter",
        "messaging_client_consumed_messages_total": "counter",
        "messaging_client_sent_messages_total": "counter",
        "messaging_process_duration_seconds": "histogram",
        "messaging_client_operation_duration_seconds": "histogram",
    }
    labels = 'otel_scope_name="bellwether",otel_scope_schema_url="",otel_scope_version=""'
    assert f'ota_campaign_device_count{{campaign_id="cmp_a",device_state="trial",{labels},phase="0"}} 7.0' in lines
    assert f'ota_events_ingested_total{{{labels},type="device.update.confirmed"}} 2.0' in lines
